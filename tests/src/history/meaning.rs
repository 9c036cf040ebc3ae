//! From a map of JSON or EDN to an event: which fields count, and what they mean.
//!
//! A line that is not a client's (its process is a name, like `:nemesis`) is passed over. Fields that
//! are not known are, too: recorders put all sorts of things there.

use super::Level;
use super::datum::Datum;
use super::fault::{Fault, Location, ReadError};
use super::raw::{Asked, Batch, Event, Function, Kind, ONLY, RawOperation, Scalar, Span};

/// The fields that count.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a Datum>,
    process: Option<&'a Datum>,
    function: Option<&'a Datum>,
    value: Option<&'a Datum>,
    index: Option<&'a Datum>,
    isolation: Option<&'a Datum>,
    commit: Option<&'a Datum>,
}

/// Adds what `datum` says to the batch, unless it is no client's.
pub(crate) fn add(datum: &Datum, place: Location, batch: &mut Batch) -> Result<(), ReadError> {
    let (operations, elements) = (batch.operations.len(), batch.elements.len());
    let added = try_add(datum, place, batch);
    if !matches!(added, Ok(true)) {
        batch.operations.truncate(operations);
        batch.elements.truncate(elements);
    }
    added.map(|_| ()).map_err(|fault| fault.at(place))
}

fn try_add(datum: &Datum, place: Location, batch: &mut Batch) -> Result<bool, Fault> {
    let fields = fields(datum)?;
    let Some(process) = process(fields.process)? else { return Ok(false) };
    let first = batch.operations.len() as u32;
    let kind = kind(fields.kind)?;
    let value = fields.value.unwrap_or(&Datum::Nil);
    let function = function(fields.function, value)?;
    let told = match operations(function, kind, value, batch) {
        Ok(()) => true,
        // Recorders put all sorts of reasons there; what was tried is known from the invocation.
        Err(_) if matches!(kind, Kind::Fail | Kind::Info) => {
            batch.operations.truncate(first as usize);
            false
        }
        Err(fault) => return Err(fault),
    };
    batch.events.push(Event {
        kind,
        function,
        process,
        index: whole("the index", fields.index)?,
        level: level(fields.isolation)?,
        commit: whole("the commit timestamp", fields.commit)?,
        place,
        told,
        first,
    });
    Ok(true)
}

fn fields(datum: &Datum) -> Result<Fields<'_>, Fault> {
    let entries = datum
        .entries()
        .ok_or_else(|| Fault::wrong("an operation", datum.kind(), "a map of its fields"))?;
    let mut fields = Fields::default();
    for (key, value) in entries {
        let field = match key.name() {
            Some("type") => &mut fields.kind,
            Some("process") => &mut fields.process,
            Some("f") => &mut fields.function,
            Some("value") => &mut fields.value,
            Some("index") => &mut fields.index,
            Some("isolation") => &mut fields.isolation,
            Some("commit") => &mut fields.commit,
            _ => continue,
        };
        if field.replace(value).is_some() {
            return Err(Fault::syntax(format!("the field {key} is there twice")));
        }
    }
    Ok(fields)
}

/// The client; inner none: the line does not say, outer none: it is not a client's line.
fn process(field: Option<&Datum>) -> Result<Option<Option<u32>>, Fault> {
    let expected = "a whole number below 4294967295, or the name of what is no client";
    match field {
        None | Some(Datum::Nil) => Ok(Some(None)),
        Some(Datum::Int(number)) => match u32::try_from(*number) {
            Ok(process) if process < u32::MAX => Ok(Some(Some(process))),
            _ => Err(Fault::wrong("the process", number, expected)),
        },
        Some(Datum::Keyword(_) | Datum::Symbol(_)) => Ok(None),
        Some(Datum::Text(name)) if name.parse::<i64>().is_err() => Ok(None),
        Some(other) => Err(Fault::wrong("the process", other, expected)),
    }
}

fn kind(field: Option<&Datum>) -> Result<Kind, Fault> {
    let datum = field.ok_or(Fault::Missing("type"))?;
    datum
        .name()
        .and_then(Kind::of)
        .ok_or_else(|| Fault::wrong("the type", datum, "invoke, ok, fail or info"))
}

/// The function. Whatever its name, a list of operations is a transaction's.
fn function(field: Option<&Datum>, value: &Datum) -> Result<Function, Fault> {
    let named = match field {
        None | Some(Datum::Nil) => return Ok(Function::Transaction),
        Some(datum) => datum,
    };
    match named.name().and_then(Function::of) {
        Some(function) => Ok(function),
        None if is_transaction(value) => Ok(Function::Transaction),
        None => Err(Fault::UnknownOperation(super::fault::shortened(&named.to_string()))),
    }
}

fn whole(what: &'static str, field: Option<&Datum>) -> Result<Option<u64>, Fault> {
    match field {
        None | Some(Datum::Nil) => Ok(None),
        Some(datum) => match datum.int().and_then(|number| u64::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Fault::wrong(what, datum, "a whole number from 0")),
        },
    }
}

fn level(field: Option<&Datum>) -> Result<Option<Level>, Fault> {
    match field {
        None | Some(Datum::Nil) => Ok(None),
        Some(datum) => match datum.name().and_then(Level::parse) {
            Some(level) => Ok(Some(level)),
            None => Err(Fault::wrong("the isolation", datum, "the name of a level")),
        },
    }
}

/// Whether it is a list of operations within a transaction: each a list that begins with a name.
fn is_transaction(value: &Datum) -> bool {
    value.elements().is_some_and(|elements| {
        !elements.is_empty()
            && elements.iter().all(|element| {
                let first = element.elements().and_then(|parts| parts.first());
                first.is_some_and(|first| first.name().is_some())
            })
    })
}

fn operations(
    function: Function,
    kind: Kind,
    value: &Datum,
    batch: &mut Batch,
) -> Result<(), Fault> {
    if function == Function::Transaction || is_transaction(value) {
        return transaction(kind, value, batch);
    }
    let key = batch.name(ONLY);
    let operation = match (function, value) {
        (Function::Init, value) => return init(value, batch),
        (Function::Read, _) if kind != Kind::Ok => RawOperation::Read { key, value: Scalar::Nil },
        (Function::Read, value) => answer(key, value, batch)?,
        // What did not take place may be told without its value.
        (Function::Acquire | Function::Release, _) => {
            let taken = Scalar::Integer(i64::from(function == Function::Acquire));
            let free = Scalar::Integer(i64::from(function == Function::Release));
            RawOperation::CompareAndSet { key, old: free, new: taken }
        }
        (_, Datum::Nil) if matches!(kind, Kind::Fail | Kind::Info) => return Ok(()),
        (Function::Write, value) => RawOperation::Write { key, value: single(value, batch)? },
        (Function::Add, value) => RawOperation::Add { key, value: batch.scalar(value) },
        (Function::CompareAndSet, value) => compare_and_set(key, value, batch)?,
        (Function::Transfer, value) => transfer(value, batch)?,
        (Function::Transaction, _) => return Ok(()),
    };
    batch.operations.push(operation);
    Ok(())
}

/// What a read alone found: all accounts, the elements of a set, or a value.
fn answer(key: Scalar, value: &Datum, batch: &mut Batch) -> Result<RawOperation, Fault> {
    Ok(match value {
        Datum::Map(entries) => {
            RawOperation::ReadWhere { asked: Asked::All, found: Some(pairs(entries, batch)?) }
        }
        Datum::List(elements) | Datum::Vector(elements) | Datum::Set(elements) => {
            RawOperation::ReadList { key, list: list(elements, batch)? }
        }
        value => RawOperation::Read { key, value: batch.scalar(value) },
    })
}

/// A value that is not itself a collection: of those it is not known what they would mean.
fn single(value: &Datum, batch: &mut Batch) -> Result<Scalar, Fault> {
    match value {
        Datum::List(_) | Datum::Vector(_) | Datum::Set(_) | Datum::Map(_) => Err(Fault::wrong(
            "the value of a register",
            value,
            "a single value (pairs of key and value are not read)",
        )),
        value => Ok(batch.scalar(value)),
    }
}

fn compare_and_set(key: Scalar, value: &Datum, batch: &mut Batch) -> Result<RawOperation, Fault> {
    match value.elements() {
        Some([old, new]) => {
            let (old, new) = (single(old, batch)?, single(new, batch)?);
            Ok(RawOperation::CompareAndSet { key, old, new })
        }
        _ => Err(Fault::wrong("the value of cas", value, "the old and the new value in a list")),
    }
}

fn transfer(value: &Datum, batch: &mut Batch) -> Result<RawOperation, Fault> {
    let wrong = || Fault::wrong("the value of transfer", value, "a map of from, to and amount");
    let entries = value.entries().ok_or_else(wrong)?;
    let field = |wanted: &str| {
        let mut found = entries.iter().filter(|(key, _)| key.name() == Some(wanted));
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(value),
            _ => Err(wrong()),
        }
    };
    let amount = field("amount")?.int().ok_or_else(wrong)?;
    let (from, to) = (batch.scalar(field("from")?), batch.scalar(field("to")?));
    Ok(RawOperation::Transfer { from, to, amount: Scalar::Integer(amount) })
}

fn init(value: &Datum, batch: &mut Batch) -> Result<(), Fault> {
    let entries = match value {
        Datum::Nil => return Ok(()),
        value => value
            .entries()
            .ok_or_else(|| Fault::wrong("the value of init", value, "a map of keys and values"))?,
    };
    for (key, value) in entries {
        let (key, value) = (key_of_map(key, batch), single(value, batch)?);
        batch.operations.push(RawOperation::Write { key, value });
    }
    Ok(())
}

fn transaction(kind: Kind, value: &Datum, batch: &mut Batch) -> Result<(), Fault> {
    let expected = "a list of operations, each like [\"append\", key, element]";
    let elements = match value {
        // What it did is then known from its invocation.
        Datum::Nil if matches!(kind, Kind::Fail | Kind::Info) => return Ok(()),
        Datum::Nil => return Err(Fault::Missing("value")),
        value => value
            .elements()
            .ok_or_else(|| Fault::wrong("the value of a transaction", value, expected))?,
    };
    for element in elements {
        let parts =
            element.elements().ok_or_else(|| Fault::wrong("an operation", element, expected))?;
        let operation = within(element, parts, batch)?;
        batch.operations.push(operation);
    }
    Ok(())
}

/// One operation of a transaction.
fn within(whole: &Datum, parts: &[Datum], batch: &mut Batch) -> Result<RawOperation, Fault> {
    let expected = "[name, key] or [name, key, value]";
    let (name, key, value) = match parts {
        [name, key] => (name, key, &Datum::Nil),
        [name, key, value] => (name, key, value),
        _ => return Err(Fault::wrong("an operation", whole, expected)),
    };
    let name = name.name().ok_or_else(|| Fault::wrong("an operation", whole, expected))?;
    if name == "rp" {
        return read_where(key, value, batch);
    }
    let key = batch.scalar(key);
    Ok(match name {
        "r" | "read" => match value {
            Datum::List(elements) | Datum::Vector(elements) | Datum::Set(elements) => {
                RawOperation::ReadList { key, list: list(elements, batch)? }
            }
            value => RawOperation::Read { key, value: batch.scalar(value) },
        },
        "append" => RawOperation::Append { key, value: batch.scalar(value) },
        "w" | "write" => RawOperation::Write { key, value: single(value, batch)? },
        "insert" => RawOperation::Insert { key, value: single(value, batch)? },
        "delete" => RawOperation::Delete { key },
        "add" => RawOperation::Add { key, value: batch.scalar(value) },
        "cas" => compare_and_set(key, value, batch)?,
        "transfer" => match value.elements() {
            Some([to, Datum::Int(amount)]) => RawOperation::Transfer {
                from: key,
                to: batch.scalar(to),
                amount: Scalar::Integer(*amount),
            },
            _ => {
                let expected = "[to, amount]";
                return Err(Fault::wrong("the value of transfer", value, expected));
            }
        },
        other => return Err(Fault::UnknownOperation(super::fault::shortened(other))),
    })
}

fn read_where(asked: &Datum, found: &Datum, batch: &mut Batch) -> Result<RawOperation, Fault> {
    let asked = match asked {
        Datum::Bool(true) => Asked::All,
        datum if datum.name() == Some("true") => Asked::All,
        datum => match datum.elements() {
            Some([name, value]) if name.name() == Some("=") => Asked::Equals(batch.scalar(value)),
            Some([name, Datum::Int(modulus), Datum::Int(rest)])
                if name.name() == Some("mod") && *modulus > 0 =>
            {
                Asked::Modulo(*modulus, *rest)
            }
            Some([name, Datum::Int(from), Datum::Int(to)]) if name.name() == Some("between") => {
                Asked::Between(*from, *to)
            }
            _ => {
                let expected = "true, [= value], [mod modulus remainder] or [between first end]";
                return Err(Fault::wrong("the predicate of rp", datum, expected));
            }
        },
    };
    let found = match found {
        Datum::Nil => None,
        Datum::Map(entries) => Some(pairs(entries, batch)?),
        other => {
            let expected = "a map of the keys and values that were found";
            return Err(Fault::wrong("the answer of rp", other, expected));
        }
    };
    Ok(RawOperation::ReadWhere { asked, found })
}

/// In JSON the keys of a map are strings, also where they are integers.
fn key_of_map(key: &Datum, batch: &mut Batch) -> Scalar {
    match key {
        Datum::Text(text) => match text.parse::<i64>() {
            Ok(number) if number.to_string() == *text => Scalar::Integer(number),
            _ => batch.scalar(key),
        },
        key => batch.scalar(key),
    }
}

fn list(elements: &[Datum], batch: &mut Batch) -> Result<Span, Fault> {
    let start = place(batch)?;
    for element in elements {
        let element = batch.scalar(element);
        batch.elements.push(element);
    }
    Ok(Span { start, length: place(batch)? - start })
}

fn pairs(entries: &[(Datum, Datum)], batch: &mut Batch) -> Result<Span, Fault> {
    let start = place(batch)?;
    for (key, value) in entries {
        let (key, value) = (key_of_map(key, batch), single(value, batch)?);
        batch.elements.extend([key, value]);
    }
    Ok(Span { start, length: place(batch)? - start })
}

fn place(batch: &Batch) -> Result<u32, Fault> {
    u32::try_from(batch.elements.len()).map_err(|_| Fault::TooMany("elements"))
}
