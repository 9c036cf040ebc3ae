//! dbcop's JSON: an array of sessions, each an array of transactions, each with its `events` and
//! whether it is `committed`; or an object that has that array as its `data`.
//!
//! An event is `{"Write": {"variable": 0, "version": 1}}`, `{"Read": {"variable": 0, "version":
//! null}}` (null: nobody has written it), or the shorter `["w", 0, 1]`, `["r", 0, null]`. There is no
//! order between sessions, and nothing is known of real time.

use std::fmt;
use std::io::{Read, Write};

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::History;
use super::assembly::{Assembly, Names};
use super::convert::WriteError;
use super::datum::Datum;
use super::fault::{Fault, Location, ReadError};
use super::jsonl;
use super::numbering::{Numbered, Unique};
use super::raw::{Batch, Event, Function, Kind, RawOperation};
use super::source::Source;

/// Reads a history.
pub fn read(reader: impl Read) -> Result<History, ReadError> {
    let mut source = Source::new(reader)?;
    while !source.is_ended() {
        source.more()?;
    }
    let place = source.place();
    let File(sessions) = serde_json::from_slice(source.rest())
        .map_err(|error| jsonl::malformed(&error, source.rest(), place, "the sessions"))?;
    let mut batch = Batch::default();
    for (session, transactions) in sessions.iter().enumerate() {
        for transaction in transactions {
            add(session, transaction, &mut batch)?;
        }
    }
    let mut assembly = Assembly::default();
    assembly.take(&batch, &mut Names::default())?;
    assembly.finish()
}

fn add(session: usize, transaction: &Recorded, batch: &mut Batch) -> Result<(), ReadError> {
    let process = u32::try_from(session).ok().filter(|session| *session < u32::MAX - 1);
    batch.events.push(Event {
        kind: if transaction.committed { Kind::Ok } else { Kind::Fail },
        function: Function::Transaction,
        // As dbcop counts them.
        process: Some(process.ok_or_else(|| ReadError::whole(Fault::TooMany("sessions")))? + 1),
        index: None,
        level: None,
        commit: None,
        place: Location::default(),
        told: true,
        first: batch.operations.len() as u32,
    });
    for access in &transaction.events {
        let (key, value) = (batch.scalar(&access.variable), batch.scalar(&access.version));
        batch.operations.push(match access.write {
            true => RawOperation::Write { key, value },
            false => RawOperation::Read { key, value },
        });
    }
    Ok(())
}

/// The sessions, whatever stands around them.
struct File(Vec<Vec<Recorded>>);

#[derive(Deserialize)]
struct Recorded {
    events: Vec<Access>,
    committed: bool,
}

struct Access {
    write: bool,
    variable: Datum,
    version: Datum,
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<File, D::Error> {
        deserializer.deserialize_any(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of sessions, or an object with it as its data")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<File, A::Error> {
        let mut sessions = Vec::new();
        while let Some(session) = sequence.next_element()? {
            sessions.push(session);
        }
        Ok(File(sessions))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
        let mut sessions = None;
        while let Some(field) = map.next_key::<String>()? {
            if field != "data" {
                map.next_value::<IgnoredAny>()?;
            } else if sessions.replace(map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field("data"));
            }
        }
        sessions.map(File).ok_or_else(|| A::Error::missing_field("data"))
    }
}

impl<'de> Deserialize<'de> for Access {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Access, D::Error> {
        deserializer.deserialize_any(AccessVisitor)
    }
}

struct AccessVisitor;

#[derive(Deserialize)]
struct Versioned {
    variable: Datum,
    version: Datum,
}

impl<'de> Visitor<'de> for AccessVisitor {
    type Value = Access;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, like {\"Read\": {\"variable\": 0, \"version\": 1}} or [\"r\", 0, 1]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Access, A::Error> {
        let missing = |count| A::Error::invalid_length(count, &"three parts of an event");
        let name: String = sequence.next_element()?.ok_or_else(|| missing(0))?;
        let variable = sequence.next_element()?.ok_or_else(|| missing(1))?;
        let version = sequence.next_element()?.ok_or_else(|| missing(2))?;
        access(&name, variable, version)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Access, A::Error> {
        let name: String =
            map.next_key()?.ok_or_else(|| A::Error::custom("an event that is neither"))?;
        let Versioned { variable, version } = map.next_value()?;
        if map.next_key::<String>()?.is_some() {
            return Err(A::Error::custom("an event that is two"));
        }
        access(&name, variable, version)
    }
}

fn access<E: Error>(name: &str, variable: Datum, version: Datum) -> Result<Access, E> {
    let write = match name {
        "Read" | "r" => false,
        "Write" | "w" => true,
        other => return Err(E::unknown_variant(other, &["Read", "Write", "r", "w"])),
    };
    if write && version == Datum::Nil {
        return Err(E::custom("a write without its version"));
    }
    Ok(Access { write, variable, version })
}

/// Writes a history of read-write registers; says what had to be renamed.
pub fn write(history: &History, mut to: impl Write) -> Result<Vec<String>, WriteError> {
    let numbered = Numbered::of(history, Unique::InHistory)?;
    let mut sessions: Vec<u64> =
        numbered.transactions.iter().map(|transaction| transaction.session).collect();
    sessions.sort_unstable();
    sessions.dedup();
    let mut own: Vec<Vec<usize>> = vec![Vec::new(); sessions.len()];
    for (place, transaction) in numbered.transactions.iter().enumerate() {
        if let Ok(session) = sessions.binary_search(&transaction.session) {
            own[session].push(place);
        }
    }
    let count = |of: usize| of as u64;
    let longest = own.iter().map(Vec::len).max().unwrap_or_default();
    let accesses = numbered.transactions.iter().map(|transaction| transaction.accesses.len());
    writeln!(
        to,
        "{{\"params\":{{\"id\":0,\"n_node\":{},\"n_variable\":{},\"n_transaction\":{},\
         \"n_event\":{}}},\"info\":\"isolith\",\"start\":\"1970-01-01T00:00:00Z\",\
         \"end\":\"1970-01-01T00:00:00Z\",\"data\":[",
        count(sessions.len()),
        count(history.key_count()),
        count(longest),
        count(accesses.max().unwrap_or_default()),
    )?;
    for (session, places) in own.iter().enumerate() {
        writeln!(to, "{}[", if session > 0 { "," } else { "" })?;
        for (nth, place) in places.iter().enumerate() {
            let transaction = &numbered.transactions[*place];
            write!(to, "{}{{\"events\":[", if nth > 0 { "," } else { "" })?;
            for (nth, access) in transaction.accesses.iter().enumerate() {
                let comma = if nth > 0 { "," } else { "" };
                let name = if access.write { "Write" } else { "Read" };
                write!(to, "{comma}{{\"{name}\":{{\"variable\":{},\"version\":", access.key)?;
                match access.value {
                    Some(value) => write!(to, "{value}}}}}")?,
                    None => write!(to, "null}}}}")?,
                }
            }
            writeln!(to, "],\"committed\":{}}}", transaction.committed)?;
        }
        writeln!(to, "]")?;
    }
    writeln!(to, "]}}")?;
    Ok(numbered.remarks)
}
