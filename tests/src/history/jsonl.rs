//! JSON: one operation a line, or one array of all of them (as elle-cli's files are).
//!
//! Lines of the common form (integers, plain names, known fields) are read by hand, straight into the
//! batch; whatever that reader does not know, it leaves to `serde_json`, which decides what is an
//! error, too. Both say the same of every line that the first one takes: a test holds them to it.
//! Pieces of a large file are read on all cores, and taken in order.
//!
//! Strings that are names (`"x"`, `"append"`) are what Clojure's keywords are: JSON has none.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};

use super::History;
use super::assembly::{Assembly, Names};
use super::datum::Datum;
use super::edn::key_given_twice;
use super::fault::{Fault, Location, ReadError};
use super::meaning;
use super::raw::{Batch, is_plain};
use super::source::{Source, place_after};

mod fast;

/// Bytes that one core reads at once.
const PIECE_BYTES: usize = 4 << 20;

/// Reads a history.
pub fn read(reader: impl Read) -> Result<History, ReadError> {
    let mut source = Source::new(reader)?;
    skip_blank(&mut source)?;
    if source.rest().first() == Some(&b'[') { read_array(source) } else { read_lines(source) }
}

/// Reads one value from a text that holds nothing else.
pub fn parse(text: &str) -> Result<Datum, ReadError> {
    datum(text.as_bytes(), Location { line: 1, offset: 0 })
}

fn skip_blank<R: Read>(source: &mut Source<R>) -> Result<(), ReadError> {
    loop {
        let blank = source.rest().iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        source.take(blank);
        if !source.rest().is_empty() || source.is_ended() {
            return Ok(());
        }
        source.more()?;
    }
}

/// A core's batch, and the names in it.
#[derive(Default)]
struct Lane {
    batch: Batch,
    names: Names,
}

fn read_lines<R: Read>(mut source: Source<R>) -> Result<History, ReadError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let mut lanes: Vec<Lane> = (0..cores).map(|_| Lane::default()).collect();
    let mut assembly = Assembly::default();
    loop {
        source.fill(cores * PIECE_BYTES)?;
        while memchr::memchr(b'\n', source.rest()).is_none() && !source.is_ended() {
            source.more()?;
        }
        let whole = match memchr::memrchr(b'\n', source.rest()) {
            _ if source.is_ended() => source.rest().len(),
            Some(last) => last + 1,
            None => 0,
        };
        if whole == 0 {
            return assembly.finish();
        }
        let (pieces, lines) = pieces(&source.rest()[..whole], source.place(), cores);
        let results = read_pieces(&pieces, &mut lanes);
        for (result, lane) in results.into_iter().zip(&mut lanes) {
            assembly.take(&lane.batch, &mut lane.names)?;
            result?;
        }
        source.take_lines(whole, lines);
    }
}

/// Cuts bytes at ends of lines, for so many cores; and how many lines there are.
fn pieces(mut bytes: &[u8], mut place: Location, cores: usize) -> (Vec<(&[u8], Location)>, u64) {
    let first = place.line;
    let length = (bytes.len() / cores).max(PIECE_BYTES / 16);
    let mut pieces = Vec::with_capacity(cores);
    while !bytes.is_empty() {
        let end = match bytes.get(length..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            Some(end) if pieces.len() + 1 < cores => length + end + 1,
            _ => bytes.len(),
        };
        let (piece, rest) = bytes.split_at(end);
        pieces.push((piece, place));
        place = place_after(place, piece);
        bytes = rest;
    }
    (pieces, place.line - first)
}

/// Reads each piece into the batch of its lane, in which everything before an error stays.
fn read_pieces(pieces: &[(&[u8], Location)], lanes: &mut [Lane]) -> Vec<Result<(), ReadError>> {
    for lane in &mut *lanes {
        lane.batch.clear();
    }
    let mut work = pieces.iter().zip(lanes);
    let Some(((bytes, place), own)) = work.next() else { return Vec::new() };
    std::thread::scope(|scope| {
        let others: Vec<_> = work
            .map(|((bytes, place), lane)| {
                scope.spawn(|| read_piece(bytes, *place, &mut lane.batch))
            })
            .collect();
        let mut results = vec![read_piece(bytes, *place, &mut own.batch)];
        results.extend(others.into_iter().map(|other| match other.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
        results
    })
}

fn read_piece(mut bytes: &[u8], mut place: Location, batch: &mut Batch) -> Result<(), ReadError> {
    while !bytes.is_empty() {
        let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
        let (line, rest) = bytes.split_at(end);
        let text = line.trim_ascii();
        if !text.is_empty() && fast::add(text, place, batch) != Some(text.len()) {
            meaning::add(&datum(text, place)?, place, batch)?;
        }
        place = Location { line: place.line + 1, offset: place.offset + line.len() as u64 };
        bytes = rest;
    }
    Ok(())
}

/// Behind whitespace, at the opening bracket.
fn read_array<R: Read>(mut source: Source<R>) -> Result<History, ReadError> {
    let mut lane = Lane::default();
    let mut assembly = Assembly::default();
    source.take(1);
    let mut first = true;
    loop {
        skip_blank(&mut source)?;
        match source.rest().first() {
            Some(b']') => break,
            Some(b',') if !first => {
                source.take(1);
                skip_blank(&mut source)?;
            }
            Some(_) if first => {}
            None => return Err(Fault::Truncated("the array of operations").at(source.place())),
            Some(_) => {
                return Err(Fault::syntax("expected a comma or the array's end").at(source.place()));
            }
        }
        first = false;
        let length = element(&mut source)?;
        let (bytes, place) = (&source.rest()[..length], source.place());
        lane.batch.clear();
        if fast::add(bytes, place, &mut lane.batch) != Some(length) {
            lane.batch.clear();
            meaning::add(&datum(bytes, place)?, place, &mut lane.batch)?;
        }
        assembly.take(&lane.batch, &mut lane.names)?;
        source.take(length);
    }
    source.take(1);
    skip_blank(&mut source)?;
    if !source.rest().is_empty() {
        return Err(Fault::syntax("something follows the array of operations").at(source.place()));
    }
    assembly.finish()
}

/// How long the object is that begins here, by its brackets.
fn element<R: Read>(source: &mut Source<R>) -> Result<usize, ReadError> {
    if source.rest().first() != Some(&b'{') {
        let fault = match source.rest().first() {
            None => Fault::Truncated("the array of operations"),
            Some(_) => Fault::wrong("an operation", "something else", "an object of its fields"),
        };
        return Err(fault.at(source.place()));
    }
    loop {
        if let Some(length) = extent(source.rest()) {
            return Ok(length);
        }
        if source.is_ended() {
            return Err(Fault::Truncated("an operation").at(source.place()));
        }
        source.more()?;
    }
}

fn extent(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut quoted, mut at) = (0_usize, false, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// What `serde_json` reads.
fn datum(bytes: &[u8], place: Location) -> Result<Datum, ReadError> {
    serde_json::from_slice(bytes).map_err(|error| malformed(&error, bytes, place, "an operation"))
}

/// What `serde_json` says about bytes that begin at `place`.
pub(super) fn malformed(
    error: &serde_json::Error,
    bytes: &[u8],
    place: Location,
    what: &'static str,
) -> ReadError {
    let above = bytes.split_inclusive(|byte| *byte == b'\n').take(error.line().max(1) - 1);
    let before: usize = above.map(<[u8]>::len).sum();
    let place = Location {
        line: place.line + error.line().max(1) as u64 - 1,
        offset: place.offset + (before + error.column().max(1) - 1) as u64,
    };
    if error.is_eof() {
        return Fault::Truncated(what).at(place);
    }
    // Without serde_json's own idea of the place.
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    if what.starts_with("recursion limit") {
        return Fault::TooDeep(super::edn::DEPTH_MAX).at(place);
    }
    Fault::syntax(format!("not JSON as it should be: {what}")).at(place)
}

impl<'de> Deserialize<'de> for Datum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Datum, D::Error> {
        deserializer.deserialize_any(Json)
    }
}

/// Takes what JSON has.
struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Datum, E> {
        Ok(Datum::Nil)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Datum, E> {
        Ok(Datum::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Datum, E> {
        Ok(Datum::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Datum, E> {
        Ok(i64::try_from(number).map_or_else(|_| Datum::Number(number.to_string()), Datum::Int))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Datum, E> {
        /// From here on not every whole number is there.
        const EXACT: f64 = (1_u64 << 53) as f64;
        if number.fract() == 0.0 && number.abs() >= EXACT {
            return Err(E::custom("a number too large to be told from its neighbours"));
        }
        // JSON has one kind of number: 1000, 1e3 and 1000.0 are the same.
        Ok(match number.fract() == 0.0 {
            true => Datum::Int(number as i64),
            false => Datum::Number(format!("{number:?}")),
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Datum, E> {
        let text = text.to_owned();
        Ok(if is_plain(&text) { Datum::Keyword(text) } else { Datum::Text(text) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Datum, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            elements.push(element);
        }
        Ok(Datum::Vector(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Datum, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        match key_given_twice(&entries) {
            Some(key) => Err(A::Error::custom(format!("the key {key} is there twice"))),
            None => Ok(Datum::Map(entries)),
        }
    }
}
