//! What the lines of a history say, before invocations and completions have found each other.
//!
//! A piece of a source becomes a [`Batch`]: events in order, their operations in one arena, names
//! interned within the batch. Batches are made on several threads; `assembly.rs` takes them in order.

use std::collections::HashMap;

use super::Level;
use super::datum::Datum;
use super::fault::Location;

/// What an event tells of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It begins.
    Invoke,
    /// It took place.
    Ok,
    /// It did not take place.
    Fail,
    /// It may have taken place, or may still do.
    Info,
}

impl Kind {
    /// The kind of a name.
    pub(crate) fn of(name: &str) -> Option<Kind> {
        match name {
            "invoke" => Some(Kind::Invoke),
            "ok" => Some(Kind::Ok),
            "fail" => Some(Kind::Fail),
            "info" => Some(Kind::Info),
            _ => None,
        }
    }
}

/// What kind of operation a line is about: `f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// Operations within a transaction: `txn`, or nothing.
    Transaction,
    /// The first state.
    Init,
    /// A read alone.
    Read,
    /// A write alone.
    Write,
    /// A compare-and-set alone.
    CompareAndSet,
    /// An addition to a set or a counter.
    Add,
    /// A transfer between accounts.
    Transfer,
    /// Taking a mutex.
    Acquire,
    /// Giving it back.
    Release,
}

const FUNCTIONS: [(Function, &str); 9] = [
    (Function::Transaction, "txn"),
    (Function::Init, "init"),
    (Function::Read, "read"),
    (Function::Write, "write"),
    (Function::CompareAndSet, "cas"),
    (Function::Add, "add"),
    (Function::Transfer, "transfer"),
    (Function::Acquire, "acquire"),
    (Function::Release, "release"),
];

impl Function {
    /// The function of a name.
    pub(crate) fn of(name: &str) -> Option<Function> {
        FUNCTIONS.iter().find(|(_, known)| *known == name).map(|(function, _)| *function)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(known, _)| *known == self).map_or("txn", |(_, name)| *name)
    }
}

/// A key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// Nothing.
    Nil,
    /// An integer.
    Integer(i64),
    /// A place among the batch's names.
    Name(u32),
}

/// Elements of the batch, from here, so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

/// What a predicate read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    All,
    Equals(Scalar),
    Modulo(i64, i64),
    Between(i64, i64),
}

/// One operation as a line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawOperation {
    Append {
        key: Scalar,
        value: Scalar,
    },
    Write {
        key: Scalar,
        value: Scalar,
    },
    Insert {
        key: Scalar,
        value: Scalar,
    },
    Delete {
        key: Scalar,
    },
    /// A read of one value, of nil, or with no answer: the event's kind tells the last two apart.
    Read {
        key: Scalar,
        value: Scalar,
    },
    ReadList {
        key: Scalar,
        list: Span,
    },
    /// Pairs of key and value.
    ReadWhere {
        asked: Asked,
        found: Option<Span>,
    },
    Add {
        key: Scalar,
        value: Scalar,
    },
    CompareAndSet {
        key: Scalar,
        old: Scalar,
        new: Scalar,
    },
    Transfer {
        from: Scalar,
        to: Scalar,
        amount: Scalar,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) function: Function,
    /// None if the line does not name one.
    pub(crate) process: Option<u32>,
    pub(crate) index: Option<u64>,
    pub(crate) level: Option<Level>,
    pub(crate) commit: Option<u64>,
    pub(crate) place: Location,
    /// Whether its operations could be read; always, if it is an invocation or a success.
    pub(crate) told: bool,
    /// Its operations in the batch; they end where those of the next event begin.
    pub(crate) first: u32,
}

/// The key of operations that name none: the only register, counter, set or mutex.
pub(crate) const ONLY: &str = "it";

/// Events, in order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    pub(crate) operations: Vec<RawOperation>,
    pub(crate) elements: Vec<Scalar>,
    pub(crate) names: Vec<Box<str>>,
    places: HashMap<Box<str>, u32>,
}

impl Batch {
    /// Forgets the events, but not the names.
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.operations.clear();
        self.elements.clear();
    }

    /// The name of this text.
    pub(crate) fn name(&mut self, text: &str) -> Scalar {
        if let Some(place) = self.places.get(text) {
            return Scalar::Name(*place);
        }
        let place = self.names.len() as u32;
        self.names.push(text.into());
        self.places.insert(text.into(), place);
        Scalar::Name(place)
    }

    /// What a value of a file is called. Names that need no marks are plain text, everything else
    /// is as EDN writes it, so that no two different values get one name.
    pub(crate) fn scalar(&mut self, datum: &Datum) -> Scalar {
        match datum {
            Datum::Nil => Scalar::Nil,
            Datum::Int(number) => Scalar::Integer(*number),
            Datum::Keyword(name) if is_plain(name) => self.name(name),
            datum => self.name(&datum.to_string()),
        }
    }

    /// The operations of an event, by its place.
    pub(crate) fn operations_of(&self, event: usize) -> &[RawOperation] {
        let first = self.events[event].first as usize;
        let end =
            self.events.get(event + 1).map_or(self.operations.len(), |next| next.first as usize);
        &self.operations[first..end]
    }

    /// The elements of a span.
    pub(crate) fn elements_of(&self, span: Span) -> &[Scalar] {
        &self.elements[span.start as usize..span.start as usize + span.length as usize]
    }
}

/// Whether a name stands for the keyword of this name: a letter, then letters, digits and a few
/// signs, and nothing that EDN reads as something else.
pub(crate) fn is_plain(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || "_-.*+!?<>=".contains(letter))
        && !matches!(name, "nil" | "true" | "false")
}
