//! What a connection has to say: replies in order, those that wait for a gate, and what may be sent.

use super::{BUFFER_BYTES_KEPT, Connection, Mark, Work};
use crate::failure;
use crate::gates::{Class, Gate, Place};
use crate::resp::Reply;
use std::task::Poll;

impl Connection {
    fn out_end(&self) -> u64 {
        self.out_start + self.out.len() as u64
    }

    /// Holds back the reply that begins at `before` in `out` until `gate` opens.
    pub(super) fn hold(
        &mut self,
        mut gate: Gate,
        before: usize,
        replies: u32,
        work: &mut Work<'_>,
    ) {
        // Often there is nothing to wait for: `Buffered` commits, and writes that wrote nothing.
        if gate.at <= work.shared.database.acknowledged()
            && matches!(work.gates.poll(&mut gate), Poll::Ready(Ok(())))
        {
            return;
        }
        let place = self.mark(gate.at, before, replies);
        work.gates.push(gate, vec![place]);
    }

    /// Marks the replies from `before` in `out` on as waiting for what is to come.
    pub(super) fn mark(&mut self, at: isolith::Timestamp, before: usize, replies: u32) -> Place {
        let start = self.out_start + before as u64;
        let mark = self.marks_start + self.marks.len() as u64;
        self.marks.push_back(Mark { start, end: self.out_end(), replies, at, open: false });
        Place { token: self.token, mark }
    }

    /// Holds back a reply that shows what may not be acknowledged yet.
    pub(super) fn hold_seen(
        &mut self,
        observed: isolith::Timestamp,
        before: usize,
        work: &mut Work<'_>,
    ) {
        if self.out.len() == before || observed <= work.shared.database.acknowledged() {
            return;
        }
        let start = self.out_start + before as u64;
        let end = self.out_end();
        // Right behind a commit that covers it: one gate for both, and one fate.
        if let Some(last) = self.marks.back_mut()
            && !last.open
            && last.end == start
            && last.at >= observed
        {
            last.end = end;
            // What goes on is no further reply.
            last.replies += u32::from(!self.begun);
            return;
        }
        let pending = work.shared.database.pending(observed);
        self.hold(Gate::new(Class::Seen, observed, pending), before, 1, work);
    }

    /// A gate has opened, or failed.
    pub(crate) fn opened(&mut self, mark: u64, outcome: &Result<(), isolith::Error>) {
        let Some(index) = mark.checked_sub(self.marks_start).map(|index| index as usize) else {
            return;
        };
        let Some(mark) = self.marks.get_mut(index) else { return };
        mark.open = true;
        if let Err(error) = outcome {
            let range =
                (mark.start - self.out_start) as usize..(mark.end - self.out_start) as usize;
            let (replies, length) = (mark.replies, range.len());
            let mut errors = Vec::new();
            let mut reply = Reply::new(&mut errors, self.session.resp3);
            (0..replies).for_each(|_| reply.error(&failure::describe(error, None)));
            // Everything behind moves.
            for later in self.marks.iter_mut().skip(index) {
                later.end = later.end - length as u64 + errors.len() as u64;
            }
            for later in self.marks.iter_mut().skip(index + 1) {
                later.start = later.start - length as u64 + errors.len() as u64;
            }
            self.out.splice(range, errors);
            // What is to come of a reply whose beginning was an error would mean nothing.
            if self.session.walk.as_ref().is_some_and(|walk| walk.has_begun()) {
                self.close_soon();
            }
        }
        while self.marks.front().is_some_and(|mark| mark.open) {
            self.marks.pop_front();
            self.marks_start += 1;
        }
    }

    /// What may be sent now, if nothing is being sent.
    pub(crate) fn next_send(&mut self) -> Option<Vec<u8>> {
        if self.sending.is_some() || self.broken {
            return None;
        }
        let released = match self.marks.front() {
            Some(mark) => (mark.start - self.out_start) as usize,
            None => self.out.len(),
        };
        if released == 0 {
            return None;
        }
        let rest = self.out.split_off(released);
        self.sending = Some(released);
        self.out_start += released as u64;
        Some(std::mem::replace(&mut self.out, rest))
    }

    /// A send is over: its buffer may be used again.
    pub(crate) fn sent(&mut self, mut buffer: Vec<u8>) {
        self.sending = None;
        if self.out.is_empty() && self.out.capacity() == 0 && buffer.capacity() <= BUFFER_BYTES_KEPT
        {
            buffer.clear();
            self.out = buffer;
        }
    }
}
