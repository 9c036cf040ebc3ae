//! What a scenario computes and asks: whole numbers, what was read, what is there in the end, and
//! comparisons of them.
//!
//! 1. Evaluation never fails. Numbers saturate at [`VALUE_MAX`]; what is absent counts as 0 in a
//!    calculation; a comparison with something that was never read is false.

use std::fmt;

use super::target::Span;

/// The largest value that a scenario can hold; the smallest is its negative.
pub const VALUE_MAX: i64 = (1 << 34) - 1;

/// An expression. Sessions are places in the scenario's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// A number.
    Number(i64),
    /// What a key without a value is equal to.
    Absent,
    /// What a session read last under this name: a key, or a label.
    Read(usize, String),
    /// What a key holds in the end.
    End(String),
    /// How many pairs there are, or what they add up to.
    Aggregate(Aggregate, Pairs),
    /// Whether a session's transaction ended so.
    Ended(usize, Ending),
    /// Whether the first session committed, and the second did later.
    Before(usize, usize),
    /// Whether the first session was told of its commit before the second began.
    Precedes(usize, usize),
    /// The negative.
    Minus(Box<Expression>),
    /// The contrary.
    Not(Box<Expression>),
    /// Two of them.
    Two(Operator, Box<Expression>, Box<Expression>),
}

/// How pairs become a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// How many.
    Count,
    /// The sum of the values.
    Sum,
}

/// Pairs of keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// What a session's scan with this label found.
    Read(usize, String),
    /// What a range holds in the end.
    End(Span),
}

/// How a transaction can have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It committed.
    Committed,
    /// It was aborted, or rolled back.
    Aborted,
}

/// What is between two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Equal,
    /// `!=`
    Differs,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Times,
}

/// What an expression can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number, or absent.
    Number,
    /// True or false.
    Truth,
}

/// What an expression is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(i64),
    /// No value.
    Absent,
    /// Never read.
    Unread,
    /// True or false.
    Truth(bool),
}

/// Where an expression looks things up.
pub trait Scope {
    /// What a session read last under a name.
    fn read(&self, session: usize, name: &str) -> Value;
    /// What a session's scan found; none if there was none.
    fn scanned(&self, session: usize, label: &str) -> Option<Vec<i64>>;
    /// What a key holds in the end.
    fn end(&self, key: &str) -> Value;
    /// What a range holds in the end.
    fn within(&self, span: &Span) -> Vec<i64>;
    /// Whether a session's transaction ended so.
    fn ended(&self, session: usize, ending: Ending) -> bool;
    /// Whether the first session committed, and the second did later.
    fn before(&self, first: usize, second: usize) -> bool;
    /// Whether the first session was told of its commit before the second began.
    fn precedes(&self, first: usize, second: usize) -> bool;
}

impl Operator {
    /// How it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Operator::Or => "or",
            Operator::And => "and",
            Operator::Equal => "==",
            Operator::Differs => "!=",
            Operator::Less => "<",
            Operator::AtMost => "<=",
            Operator::Greater => ">",
            Operator::AtLeast => ">=",
            Operator::Plus => "+",
            Operator::Minus => "-",
            Operator::Times => "*",
        }
    }

    /// How tightly it binds.
    pub fn rank(self) -> u8 {
        match self {
            Operator::Or => 1,
            Operator::And => 2,
            Operator::Plus | Operator::Minus => 5,
            Operator::Times => 6,
            _ => 4,
        }
    }

    /// What it takes on both sides, and what it makes.
    pub fn kinds(self) -> (Kind, Kind) {
        match self {
            Operator::Or | Operator::And => (Kind::Truth, Kind::Truth),
            Operator::Plus | Operator::Minus | Operator::Times => (Kind::Number, Kind::Number),
            _ => (Kind::Number, Kind::Truth),
        }
    }
}

impl Value {
    fn truth(self) -> bool {
        self == Value::Truth(true)
    }

    /// As a number: what is absent, or was never read, counts as 0.
    pub fn number(self) -> i64 {
        match self {
            Value::Number(number) => number,
            _ => 0,
        }
    }
}

/// A number within what a scenario can hold.
pub fn saturated(number: i64) -> i64 {
    number.clamp(-VALUE_MAX, VALUE_MAX)
}

impl Expression {
    /// Whether it is a number or a truth.
    pub fn kind(&self) -> Kind {
        match self {
            Expression::Number(_)
            | Expression::Absent
            | Expression::Read(..)
            | Expression::End(_)
            | Expression::Aggregate(..)
            | Expression::Minus(_) => Kind::Number,
            Expression::Ended(..)
            | Expression::Before(..)
            | Expression::Precedes(..)
            | Expression::Not(_) => Kind::Truth,
            Expression::Two(operator, ..) => operator.kinds().1,
        }
    }

    /// Whether it holds.
    pub fn holds(&self, scope: &dyn Scope) -> bool {
        self.evaluate(scope).truth()
    }

    /// What it is.
    pub fn evaluate(&self, scope: &dyn Scope) -> Value {
        let sum =
            |values: &[i64]| values.iter().fold(0i64, |sum, value| sum.saturating_add(*value));
        match self {
            Expression::Number(number) => Value::Number(saturated(*number)),
            Expression::Absent => Value::Absent,
            Expression::Read(session, name) => scope.read(*session, name),
            Expression::End(key) => scope.end(key),
            Expression::Aggregate(aggregate, pairs) => {
                let values = match pairs {
                    Pairs::Read(session, label) => scope.scanned(*session, label),
                    Pairs::End(span) => Some(scope.within(span)),
                };
                match (values, aggregate) {
                    (None, _) => Value::Unread,
                    (Some(values), Aggregate::Count) => Value::Number(values.len() as i64),
                    (Some(values), Aggregate::Sum) => Value::Number(saturated(sum(&values))),
                }
            }
            Expression::Ended(session, ending) => Value::Truth(scope.ended(*session, *ending)),
            Expression::Before(first, second) => Value::Truth(scope.before(*first, *second)),
            Expression::Precedes(first, second) => Value::Truth(scope.precedes(*first, *second)),
            Expression::Minus(inner) => match inner.evaluate(scope) {
                Value::Unread => Value::Unread,
                value => Value::Number(-value.number()),
            },
            Expression::Not(inner) => Value::Truth(!inner.holds(scope)),
            Expression::Two(Operator::Or, left, right) => {
                Value::Truth(left.holds(scope) || right.holds(scope))
            }
            Expression::Two(Operator::And, left, right) => {
                Value::Truth(left.holds(scope) && right.holds(scope))
            }
            Expression::Two(operator, left, right) => {
                two(*operator, left.evaluate(scope), right.evaluate(scope))
            }
        }
    }

    /// Calls `look` for it and all in it.
    pub fn walk<'a>(&'a self, look: &mut dyn FnMut(&'a Expression)) {
        look(self);
        match self {
            Expression::Minus(inner) | Expression::Not(inner) => inner.walk(look),
            Expression::Two(_, left, right) => {
                left.walk(look);
                right.walk(look);
            }
            _ => {}
        }
    }

    /// Writes it as the text form has it; `names` are the sessions', `own` the one whose step it is in.
    pub fn show(&self, names: &[&str], own: Option<usize>) -> String {
        let name = |session: &usize| names.get(*session).copied().unwrap_or("?");
        let within = |session: &usize, what: &str| match own == Some(*session) {
            true => what.to_owned(),
            false => format!("{}.{what}", name(session)),
        };
        let inner = |one: &Expression, rank: u8| {
            let text = one.show(names, own);
            match one {
                Expression::Two(operator, ..) if operator.rank() <= rank => format!("({text})"),
                _ => text,
            }
        };
        match self {
            Expression::Number(number) => number.to_string(),
            Expression::Absent => "absent".into(),
            Expression::Read(session, what) => within(session, what),
            Expression::End(key) => key.clone(),
            Expression::Aggregate(aggregate, pairs) => {
                let pairs = match pairs {
                    Pairs::Read(session, label) => within(session, label),
                    Pairs::End(span) => span.to_string(),
                };
                match aggregate {
                    Aggregate::Count => format!("count({pairs})"),
                    Aggregate::Sum => format!("sum({pairs})"),
                }
            }
            Expression::Ended(session, Ending::Committed) => {
                format!("{}.committed", name(session))
            }
            Expression::Ended(session, Ending::Aborted) => format!("{}.aborted", name(session)),
            Expression::Before(first, second) => {
                format!("before({}, {})", name(first), name(second))
            }
            Expression::Precedes(first, second) => {
                format!("precedes({}, {})", name(first), name(second))
            }
            Expression::Minus(one) => format!("-{}", inner(one, u8::MAX)),
            Expression::Not(one) => format!("not {}", inner(one, 3)),
            Expression::Two(operator, left, right) => {
                let rank = operator.rank();
                format!("{} {} {}", inner(left, rank - 1), operator.sign(), inner(right, rank))
            }
        }
    }
}

fn two(operator: Operator, left: Value, right: Value) -> Value {
    use Operator::{AtLeast, AtMost, Differs, Equal, Greater, Less, Minus, Plus, Times};
    let unread = left == Value::Unread || right == Value::Unread;
    let (one, other) = (left.number(), right.number());
    match operator {
        Plus | Minus | Times if unread => Value::Unread,
        Plus => Value::Number(saturated(one.saturating_add(other))),
        Minus => Value::Number(saturated(one.saturating_sub(other))),
        Times => Value::Number(saturated(one.saturating_mul(other))),
        _ if unread => Value::Truth(false),
        Equal => Value::Truth(left == right),
        Differs => Value::Truth(left != right),
        Less => Value::Truth(one < other),
        AtMost => Value::Truth(one <= other),
        Greater => Value::Truth(one > other),
        AtLeast => Value::Truth(one >= other),
        Operator::Or | Operator::And => Value::Truth(false),
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Absent => f.write_str("absent"),
            Value::Unread => f.write_str("never read"),
            Value::Truth(truth) => write!(f, "{truth}"),
        }
    }
}
