//! Plain text: `r(key,value,session,transaction)` and `w(…)`, one operation a line.
//!
//! The format of PolySI, IsoVista and others for read-write registers. Exactly:
//!
//! - Each line is `r` or `w`, and four integers between parentheses: the key, the value that was
//!   read or written, the session and the transaction. White space around them, and empty lines, are
//!   allowed here; the others allow none.
//! - Every key begins with the value 0. Each value is written to a key at most once.
//! - Transactions of a session follow each other in the order of their first lines, and a transaction
//!   has its operations in the order of theirs. Between sessions there is no order: nothing is known
//!   of real time.
//! - A transaction `-1` was aborted; only its writes count, and each is taken for a transaction of
//!   its own. Everything else was committed.

use std::collections::HashMap;
use std::io::{Read, Write};

use super::assembly::{Assembly, Names};
use super::fault::{Fault, Location, ReadError};
use super::numbering::{Numbered, Unique};
use super::raw::{Batch, Event, Function, Kind, RawOperation, Scalar};
use super::source::Source;
use super::{History, convert::WriteError};

/// A transaction whose lines have begun.
struct Begun {
    session: u32,
    place: Location,
    committed: bool,
}

/// Reads a history.
pub fn read(reader: impl Read) -> Result<History, ReadError> {
    let mut source = Source::new(reader)?;
    let mut batch = Batch::default();
    let mut begun: Vec<Begun> = Vec::new();
    let mut slots: HashMap<u64, u32> = HashMap::new();
    let mut operations: Vec<(u32, RawOperation)> = Vec::new();
    while let Some((length, line)) = next_line(&mut source)? {
        let place = source.place();
        if !line.is_empty() {
            let line = Line::parse(&line).map_err(|fault| fault.at(place))?;
            let slot = line.slot(place, &mut begun, &mut slots).map_err(|fault| fault.at(place))?;
            if let Some(slot) = slot {
                operations.push((slot, line.operation(&mut batch)));
            }
        }
        source.take(length);
    }
    operations.sort_by_key(|(slot, _)| *slot);
    assemble(batch, &begun, &operations)
}

fn assemble(
    mut batch: Batch,
    begun: &[Begun],
    operations: &[(u32, RawOperation)],
) -> Result<History, ReadError> {
    let mut rest = operations;
    for (slot, begun) in begun.iter().enumerate() {
        let own = rest.iter().take_while(|(of, _)| *of as usize == slot).count();
        batch.events.push(Event {
            kind: if begun.committed { Kind::Ok } else { Kind::Fail },
            function: Function::Transaction,
            process: Some(begun.session),
            index: None,
            level: None,
            commit: None,
            place: begun.place,
            told: true,
            first: batch.operations.len() as u32,
        });
        batch.operations.extend(rest[..own].iter().map(|(_, operation)| *operation));
        rest = &rest[own..];
    }
    let mut assembly = Assembly::from_zero();
    assembly.take(&batch, &mut Names::default())?;
    assembly.finish()
}

/// The next line without its end and without white space around it; how long it is with them.
fn next_line<R: Read>(source: &mut Source<R>) -> Result<Option<(usize, Vec<u8>)>, ReadError> {
    loop {
        let rest = source.rest();
        match memchr::memchr(b'\n', rest) {
            Some(end) => return Ok(Some((end + 1, rest[..end].trim_ascii().to_vec()))),
            None if !source.is_ended() => source.more()?,
            None if rest.is_empty() => return Ok(None),
            None => return Ok(Some((rest.len(), rest.trim_ascii().to_vec()))),
        }
    }
}

/// One line.
struct Line<'a> {
    write: bool,
    key: &'a str,
    value: &'a str,
    session: u64,
    /// None: aborted.
    transaction: Option<u64>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Result<Line<'a>, Fault> {
        let text = std::str::from_utf8(line).map_err(|_| Fault::NotUtf8)?;
        let wrong = || Fault::wrong("the line", text, "r(key,value,session,transaction) or w(…)");
        let (name, rest) = text.split_once('(').ok_or_else(wrong)?;
        let write = match name.trim() {
            "r" => false,
            "w" => true,
            _ => return Err(wrong()),
        };
        let inside = rest.strip_suffix(')').ok_or_else(wrong)?;
        let mut parts = inside.split(',').map(str::trim);
        let (Some(key), Some(value), Some(session), Some(transaction), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        if !is_integer(key) || !is_integer(value) {
            return Err(wrong());
        }
        let session = session.parse().map_err(|_| wrong())?;
        let transaction = match transaction {
            "-1" => None,
            digits => Some(digits.parse().map_err(|_| wrong())?),
        };
        Ok(Line { write, key, value, session, transaction })
    }

    /// The place of its transaction; none if the line does not count.
    fn slot(
        &self,
        place: Location,
        begun: &mut Vec<Begun>,
        slots: &mut HashMap<u64, u32>,
    ) -> Result<Option<u32>, Fault> {
        let session = u32::try_from(self.session).ok().filter(|session| *session < u32::MAX);
        let session = session.ok_or_else(|| {
            Fault::wrong("the session", self.session, "a whole number below 4294967295")
        })?;
        let next = u32::try_from(begun.len()).map_err(|_| Fault::TooMany("transactions"))?;
        let Some(transaction) = self.transaction else {
            if !self.write {
                return Ok(None);
            }
            begun.push(Begun { session, place, committed: false });
            return Ok(Some(next));
        };
        let slot = *slots.entry(transaction).or_insert(next);
        match begun.get(slot as usize) {
            None => begun.push(Begun { session, place, committed: true }),
            Some(known) if known.session != session => {
                let (first, second) = (known.session.into(), session.into());
                return Err(Fault::TwoSessions { transaction, first, second });
            }
            Some(_) => {}
        }
        Ok(Some(slot))
    }

    fn operation(&self, batch: &mut Batch) -> RawOperation {
        let (key, value) = (scalar(self.key, batch), scalar(self.value, batch));
        match self.write {
            true => RawOperation::Write { key, value },
            false => RawOperation::Read { key, value },
        }
    }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Integers beyond 64 bits are told apart by their text.
fn scalar(text: &str, batch: &mut Batch) -> Scalar {
    text.parse().map_or_else(|_| batch.name(text), Scalar::Integer)
}

/// Writes a history of read-write registers; says what had to be renamed.
pub fn write(history: &History, mut to: impl Write) -> Result<Vec<String>, WriteError> {
    let numbered = Numbered::of(history, Unique::InKey)?;
    for transaction in &numbered.transactions {
        for access in &transaction.accesses {
            let name = if access.write { 'w' } else { 'r' };
            let (key, value, session) =
                (access.key, access.value.unwrap_or(0), transaction.session);
            match transaction.committed {
                true => writeln!(to, "{name}({key},{value},{session},{})", transaction.number)?,
                false if access.write => writeln!(to, "w({key},{value},{session},-1)")?,
                false => {}
            }
        }
    }
    Ok(numbered.remarks)
}
