//! A connection's part in a batch of several: see `together.rs`.

use super::{Connection, Work};
use crate::batch::Batch;
use crate::execute::Flow;
use crate::gates::Place;
use crate::resp::Reply;
use isolith::Timestamp;
use std::time::Instant;

/// What came of asking a connection to join a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// Its command was run; its reply begins here in `out`.
    At(usize),
    /// It has none any more.
    Not,
    /// Its command cannot be part of a batch: the batch must be given up.
    Failed,
}

impl Connection {
    /// Runs the front command in a batch. What follows is [`joined`](Connection::joined),
    /// [`joined_in_vain`](Connection::joined_in_vain) or [`leave`](Connection::leave), before anything else.
    pub(crate) fn join(&mut self, batch: &mut Batch, work: &Work<'_>) -> Joined {
        let Some(spec) = self.joins else { return Joined::Not };
        // Another connection may have changed that since.
        if !Batch::may_begin(&mut self.session, work.shared, spec) {
            return Joined::Failed;
        }
        let (before, began) = (self.out.len(), Instant::now());
        let args = self.parser.args(&self.input);
        if batch.run(&mut self.session, work.shared, spec, args, &mut self.out).is_err() {
            self.out.truncate(before);
            return Joined::Failed;
        }
        self.note_if_slow(began.elapsed(), Some(spec), &self.input, &Flow::Done, work);
        Joined::At(before)
    }

    /// The batch is committed at `at`. Whom to tell when it is acknowledged, if it is not (`waits`).
    pub(crate) fn joined(
        &mut self,
        at: Timestamp,
        before: usize,
        waits: bool,
        work: &Work<'_>,
    ) -> Option<Place> {
        self.session.saw(at);
        self.pass(work);
        waits.then(|| self.mark(at, before, 1))
    }

    /// Nobody knows what became of the batch.
    pub(crate) fn joined_in_vain(&mut self, error: &str, before: usize, work: &Work<'_>) {
        self.out.truncate(before);
        Reply::new(&mut self.out, self.session.resp3).error(error);
        self.pass(work);
    }

    /// The front command is over.
    fn pass(&mut self, work: &Work<'_>) {
        self.joins = None;
        let taken = self.parser.finish();
        if taken == self.input.len() {
            self.input = Vec::new();
        } else {
            self.input.drain(..taken);
        }
        self.ran(1, work);
    }

    /// The batch came to nothing: the reply is taken back. The command may join another.
    pub(crate) fn leave(&mut self, before: usize) {
        self.out.truncate(before);
    }

    /// The command is run by itself.
    pub(crate) fn run_alone(&mut self, work: &mut Work<'_>) {
        if self.joins.take().is_some() {
            self.alone = true;
            self.go_on(work);
        }
    }
}
