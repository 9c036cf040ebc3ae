//! The roles that a thread takes on for all: leading, attending to a batch, flushing.
//!
//! 1. A role that is lost, because its thread panics, poisons the log: the others are told instead of
//!    left waiting for a step that nobody takes any more.

use std::io;

use crate::error::FailedOperation;
use crate::format::SegmentId;
use crate::log::Log;
use crate::pipeline::{Flight, Place};

/// The lead: given back when the batch is on its way. Lost in a panic, it takes the log with it.
pub(super) struct Leading<'a> {
    pub(super) log: &'a Log,
    pub(super) held: bool,
}

impl Leading<'_> {
    /// The batch is sent, and attended to by the caller.
    pub(super) fn end(mut self) {
        self.held = false;
        let mut pipeline = self.log.commit.pipeline.lock();
        pipeline.end_sealing();
        self.log.commit.hand_over(pipeline);
    }

    /// The batch is sent, and left to one of those who wait for it; given back if there is none.
    pub(super) fn leave(mut self, flight: Flight) -> Option<Flight> {
        self.held = false;
        let place = Place::Batch(flight.cut.sequence);
        let mut pipeline = self.log.commit.pipeline.lock();
        pipeline.end_sealing();
        let kept = pipeline.leave(flight);
        self.log.commit.hand_over(pipeline);
        if kept.is_none() {
            self.log.commit.events[place.event()].notify_one();
        }
        kept
    }

    /// Nothing could be sealed: those who wait for the batch look again, and the driver where a future
    /// does.
    pub(super) fn nothing(mut self) {
        self.held = false;
        let mut pipeline = self.log.commit.pipeline.lock();
        pipeline.end_sealing();
        let place = Place::Batch(pipeline.next_sequence());
        let for_driver = pipeline.driver_may_lead();
        let closing = pipeline.is_closing();
        drop(pipeline);
        self.log.commit.tell_close(closing);
        self.log.commit.events[place.event()].notify_all();
        if for_driver && self.log.commit.has_driver() {
            self.log.commit.call_driver();
        }
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if self.held {
            self.log.commit.pipeline.lock().end_sealing();
            let error = io::Error::other("a batch could not be put together");
            self.log.fail(FailedOperation::Broken, SegmentId::NONE, error);
        }
    }
}

/// A batch is being waited for, and its consequences drawn. A panic in between (in a horizon, or in
/// a waker) takes the log with it.
pub(super) struct Attending<'a> {
    pub(super) log: &'a Log,
}

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = io::Error::other("a panic while a batch was completed");
            self.log.fail(FailedOperation::Broken, SegmentId::NONE, error);
        }
    }
}

/// The flush: given back when it is done. Lost, it takes the log with it.
pub(super) struct Flushing<'a> {
    pub(super) log: &'a Log,
    pub(super) held: bool,
}

impl Flushing<'_> {
    pub(super) fn end(mut self) {
        self.held = false;
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        if self.held {
            self.log.commit.pipeline.lock().end_flushing();
            let error = io::Error::other("a sync did not come to its end");
            self.log.fail(FailedOperation::Broken, SegmentId::NONE, error);
        }
    }
}
