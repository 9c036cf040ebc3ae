//! The front command of a connection, while a helper has it.

use super::{Connection, Work};
use crate::commands::Spec;
use crate::execute::{Flow, Later, Try};
use crate::helpers::{BUSY, Errand, Returned};
use crate::resp::Reply;

impl Connection {
    /// True if the front command is known to be for a helper, and may run now.
    pub(super) fn is_errand(&self, spec: &'static Spec, input: &[u8], work: &Work<'_>) -> bool {
        let pause = &work.shared.pause;
        self.session.is_errand(spec, self.parser.args(input))
            && !(pause.is_on() && pause.holds(spec, work.shared.now_ms()))
    }

    /// Gives the front command to the helpers, and the session with it.
    pub(super) fn send_away(
        &mut self,
        spec: &'static Spec,
        input: &[u8],
        this: Try<'_>,
        work: &mut Work<'_>,
    ) -> Flow {
        let stand_in = self.session.stand_in();
        let errand = Errand {
            token: self.token,
            core: work.core,
            session: std::mem::replace(&mut self.session, stand_in),
            spec,
            args: self.parser.args(input).to_owned(),
            patient: this.patient,
        };
        match work.shared.helpers.take(errand) {
            Ok(()) => Flow::Later(Later::Away),
            Err(errand) => {
                self.session = errand.session;
                Reply::new(&mut self.out, self.session.resp3).error(BUSY);
                Flow::Done
            }
        }
    }

    /// The session is back, and with it what the helper has made of the command.
    pub(crate) fn returned(&mut self, returned: Returned, work: &mut Work<'_>) {
        self.session = returned.session;
        if self.closing {
            self.parked = None;
            self.say_last(returned.answer.out, returned.answer.flow, work);
            return;
        }
        self.answer = Some(returned.answer);
        self.go_on(work);
        // Woken while nobody was there who waited.
        if self.waits_for_lock() && self.session.wait.is_woken() {
            self.go_on(work);
        }
    }

    /// Answers the command that was in hand when the connection was told to close.
    fn say_last(&mut self, mut out: Vec<u8>, flow: Flow, work: &mut Work<'_>) {
        let before = self.out.len();
        if !matches!(flow, Flow::Later(_)) {
            self.out.append(&mut out);
        }
        match flow {
            Flow::Gate(gate) => self.hold(gate, before, 1, work),
            Flow::Seen(observed) => self.hold_seen(observed, before, work),
            _ => {}
        }
        self.session.end();
    }
}
