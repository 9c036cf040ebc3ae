//! Reads a scenario's text, line by line. What refers to sessions is read after all of them.

use isolith::{Concurrency, Isolation};

use super::lexer::{Token, tokens};
use super::{
    Act, DEPTH_MAX, KEYS_MAX, KEYSPACES_MAX, MERGES_MAX, NAME_BYTES_MAX, ParseError, SESSIONS_MAX,
    STEPS_MAX, Scenario, Session, Step, TEXT_BYTES_MAX, UNITS_MAX,
};
use crate::laboratory::expression::{
    Aggregate, Ending, Expression, Kind, Operator, Pairs, VALUE_MAX,
};
use crate::laboratory::target::{Hold, Span, space_of};

type Parsed<T> = Result<T, ParseError>;

/// Words that are no names.
const RESERVED: [&str; 12] = [
    "and",
    "or",
    "not",
    "absent",
    "count",
    "sum",
    "before",
    "precedes",
    "if",
    "as",
    "committed",
    "aborted",
];
/// What a line may begin with.
const LINES: &str = "a header (name: title: phenomenon: about: source: forbidden: setup: anomaly: \
                     invariant: schedule:) or 'session'";
const STEPS: &str = "a step: begin, get, scan, put, merge, delete, lock, savepoint, rollback, commit, \
                     pass, drop";
/// Bytes of a header that is prose.
const PROSE_BYTES_MAX: usize = 4 << 10;

/// Reads a scenario from its text. Without a `name:` it gets `name`.
pub fn parse(name: &str, text: &str) -> Parsed<Scenario> {
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("a scenario has at most {TEXT_BYTES_MAX} bytes, not {}", text.len());
        return Err(ParseError { line: 1, column: 1, what });
    }
    let mut reader = Reader {
        scenario: Scenario { name: name.into(), ..Scenario::default() },
        later: Vec::new(),
        seen: Vec::new(),
    };
    let mut last = 1;
    for (number, line) in text.lines().enumerate() {
        last = number + 1;
        reader.line(last, line)?;
    }
    reader.end(last)
}

struct Reader {
    scenario: Scenario,
    /// Headers that speak of sessions: line, column, header, text.
    later: Vec<(usize, usize, String, String)>,
    /// Headers that may stand there once.
    seen: Vec<String>,
}

fn error<T>(line: usize, column: usize, what: impl Into<String>) -> Parsed<T> {
    Err(ParseError { line, column, what: what.into() })
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Parsed<()> {
        let line = if number == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let text = line.trim_start();
        let column = line.chars().count() - text.chars().count() + 1;
        if text.is_empty() || text.starts_with('#') {
            return Ok(());
        }
        let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let rest = &text[word.len()..];
        if word == "session" && rest.starts_with(char::is_whitespace) {
            return self.session(number, column + word.len(), rest);
        }
        if let Some(rest) = rest.strip_prefix(':') {
            let begins = column + word.chars().count() + 1;
            let trimmed = rest.trim_start();
            let begins = begins + rest.chars().count() - trimmed.chars().count();
            return self.header(number, column, &word, begins, trimmed.trim_end());
        }
        self.step(number, column, text)
    }

    fn header(
        &mut self,
        line: usize,
        column: usize,
        header: &str,
        begins: usize,
        text: &str,
    ) -> Parsed<()> {
        if header != "invariant" && header != "about" {
            if self.seen.iter().any(|seen| seen == header) {
                return error(line, column, format!("'{header}:' stands here a second time"));
            }
            self.seen.push(header.into());
        }
        let prose = |into: &mut String| -> Parsed<()> {
            if into.len() + text.len() > PROSE_BYTES_MAX {
                return error(line, begins, format!("more than {PROSE_BYTES_MAX} bytes of text"));
            }
            if !into.is_empty() {
                into.push(' ');
            }
            into.push_str(text);
            Ok(())
        };
        match header {
            "name" => {
                let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(legal) {
                    return error(
                        line,
                        begins,
                        "expected a name of letters, digits, '-', '_', '.'",
                    );
                }
                self.scenario.name = text.into();
            }
            "title" => prose(&mut self.scenario.title)?,
            "phenomenon" => prose(&mut self.scenario.phenomenon)?,
            "about" => prose(&mut self.scenario.about)?,
            "source" => prose(&mut self.scenario.source)?,
            "forbidden" => self.scenario.forbidden = Some(levels(line, begins, text)?),
            "setup" => self.setup(Line::new(line, begins, text)?)?,
            "anomaly" | "invariant" | "schedule" => {
                self.later.push((line, begins, header.into(), text.into()));
            }
            _ => return error(line, column, format!("expected {LINES}")),
        }
        Ok(())
    }

    fn setup(&mut self, mut line: Line) -> Parsed<()> {
        if line.peek() == &Token::End {
            return Ok(());
        }
        loop {
            let (column, key) = line.key("a key")?;
            line.sign("=")?;
            let negative = line.take("-");
            let (at, token) = line.next();
            let Token::Number(number) = token else {
                return line.fail(at, "a number", &token);
            };
            if number > VALUE_MAX {
                return error(line.number, at, format!("a value is at most {VALUE_MAX}"));
            }
            let value = if negative { -number } else { number };
            if self.scenario.setup.insert(key.clone(), value).is_some() {
                return error(line.number, column, format!("'{key}' has a value already"));
            }
            self.scenario.expiring.extend(line.lasting()?.map(|units| (key, units)));
            if !line.take(",") {
                return line.end();
            }
        }
    }

    fn session(&mut self, number: usize, column: usize, text: &str) -> Parsed<()> {
        let (head, terms) = text.split_once(':').unwrap_or((text, ""));
        let mut line = Line::new(number, column, head)?;
        let (at, name) = line.name("the session's name")?;
        line.end()?;
        if self.scenario.sessions.iter().any(|session| session.name == name) {
            return error(number, at, format!("there is a session '{name}' already"));
        }
        if self.scenario.sessions.len() == SESSIONS_MAX {
            return error(number, at, format!("a scenario has at most {SESSIONS_MAX} sessions"));
        }
        let mut session = Session { name, ..Session::default() };
        let mut place = column + head.chars().count() + 1;
        for word in terms.split(' ') {
            let (isolation, concurrency) = (word.parse::<Isolation>(), word.parse::<Concurrency>());
            match (isolation, concurrency) {
                _ if word.trim().is_empty() => {}
                (Ok(level), _) if session.isolation.is_none() => session.isolation = Some(level),
                (_, Ok(control)) if session.concurrency.is_none() => {
                    session.concurrency = Some(control);
                }
                (Ok(_), _) | (_, Ok(_)) => {
                    return error(number, place, "a session has one level and one control");
                }
                (Err(level), Err(control)) => {
                    return error(number, place, format!("{level}; {control}"));
                }
            }
            place += word.chars().count() + 1;
        }
        self.scenario.sessions.push(session);
        Ok(())
    }

    fn step(&mut self, number: usize, column: usize, text: &str) -> Parsed<()> {
        let mut line = Line::new(number, column, text)?;
        let keys_before = self.scenario.keys().len();
        let known = self.scenario.sessions.len();
        let (at, word) = match line.next() {
            (at, Token::Word(word)) => (at, word),
            (at, token) => return line.fail(at, &format!("{LINES}, or {STEPS}"), &token),
        };
        let Some(session) = self.scenario.sessions.last_mut() else {
            let what = format!("expected {LINES} before the first step");
            return error(number, at, what);
        };
        if session.steps.last().is_some_and(|step| step.act.ends()) {
            return error(
                number,
                at,
                format!("'{}' is over: nothing follows its end", session.name),
            );
        }
        if session.steps.len() == STEPS_MAX - 1 && word != "commit" && word != "rollback" {
            return error(number, at, format!("a session has at most {STEPS_MAX} steps"));
        }
        let place = known - 1;
        let act = line.act(at, &word, session, place)?;
        if matches!(act, Act::Begin) && !session.steps.is_empty() {
            return error(number, at, "'begin' is a session's first step");
        }
        if matches!(act, Act::Drop(_)) && !session.only_drops() {
            return error(number, at, "a session that drops a keyspace does nothing else");
        }
        let condition = match line.take_word("if") {
            true if act.ends() || matches!(act, Act::Begin | Act::Savepoint(_) | Act::Pass(_)) => {
                return error(number, at, format!("'{word}' has no condition"));
            }
            true => Some(line.condition(&Context::Steps { place, session })?),
            false => None,
        };
        line.end()?;
        session.steps.push(Step { act, condition });
        if self.scenario.keys().len() > KEYS_MAX.max(keys_before) {
            return error(number, at, format!("a scenario has at most {KEYS_MAX} keys"));
        }
        let steps = || self.scenario.sessions.iter().flat_map(|session| &session.steps);
        let drops = |step: &&Step| matches!((&step.act, &word[..]), (Act::Drop(_), "drop"));
        let mut dropped: Vec<&Act> = steps().filter(drops).map(|step| &step.act).collect();
        if let Some(Act::Drop(last)) = dropped.pop()
            && dropped.contains(&&Act::Drop(last.clone()))
        {
            return error(number, at, format!("'{last}' is dropped already"));
        }
        let merges = steps().filter(|step| matches!(step.act, Act::Merge { .. })).count();
        if merges > MERGES_MAX {
            return error(number, at, format!("a scenario has at most {MERGES_MAX} merges"));
        }
        Ok(())
    }

    fn end(mut self, last: usize) -> Parsed<Scenario> {
        if self.scenario.sessions.is_empty() {
            return error(last, 1, "expected at least one session");
        }
        for session in &mut self.scenario.sessions {
            if !session.steps.last().is_some_and(|step| step.act.ends()) {
                session.steps.push(Step { act: Act::Commit, condition: None });
            }
        }
        for (number, column, header, text) in std::mem::take(&mut self.later) {
            if header == "schedule" {
                self.scenario.schedule = schedule(&text, self.scenario.sessions.len())
                    .map_err(|what| ParseError { line: number, column, what })?;
                continue;
            }
            let mut line = Line::new(number, column, &text)?;
            let expression = line.condition(&Context::End { sessions: &self.scenario.sessions })?;
            line.end()?;
            match header.as_str() {
                "anomaly" => self.scenario.anomaly = Some(expression),
                _ => self.scenario.invariants.push(expression),
            }
        }
        if self.scenario.keys().len() > KEYS_MAX {
            return error(last, 1, format!("a scenario has at most {KEYS_MAX} keys"));
        }
        if self.scenario.spaces().len() > KEYSPACES_MAX {
            return error(last, 1, format!("a scenario has at most {KEYSPACES_MAX} keyspaces"));
        }
        Ok(self.scenario)
    }
}

fn levels(line: usize, column: usize, text: &str) -> Parsed<Vec<Isolation>> {
    if text.trim() == "none" {
        return Ok(Vec::new());
    }
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let levels: Result<Vec<Isolation>, _> = words.map(str::parse).collect();
    match levels {
        Ok(levels) if !levels.is_empty() => Ok(levels),
        Ok(_) => error(line, column, "expected isolation levels, or 'none'"),
        Err(why) => error(line, column, why.to_string()),
    }
}

/// Reads a schedule: numbers of sessions, from 1, with blanks or commas between them.
pub fn schedule(text: &str, sessions: usize) -> Result<Vec<usize>, String> {
    const MOVES_MAX: usize = 10_000;
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let mut moves = Vec::new();
    for word in words {
        let number: Option<usize> =
            word.parse().ok().filter(|number| (1..=sessions).contains(number));
        let Some(number) = number else {
            let word = word.escape_debug();
            return Err(format!("expected numbers of sessions, 1 to {sessions}, not '{word}'"));
        };
        moves.push(number - 1);
        if moves.len() > MOVES_MAX {
            return Err(format!("a schedule has at most {MOVES_MAX} moves"));
        }
    }
    Ok(moves)
}

/// Where an expression stands.
enum Context<'a> {
    /// In a step of the session at this place.
    Steps { place: usize, session: &'a Session },
    /// Behind all sessions.
    End { sessions: &'a [Session] },
}

impl Context<'_> {
    /// Whether a session reads something under this name.
    fn reads(session: &Session, name: &str) -> bool {
        session.steps.iter().any(|step| match &step.act {
            Act::Get { key, label, .. } => key == name || label.as_deref() == Some(name),
            Act::Put { key, .. } | Act::Delete(key) => key == name,
            Act::Scan { span, .. } => span.contains(name),
            _ => false,
        })
    }

    fn scans(session: &Session, name: &str) -> bool {
        session.steps.iter().any(|step| match &step.act {
            Act::Scan { label, .. } => label.as_deref() == Some(name),
            _ => false,
        })
    }
}

/// A line that is being read.
struct Line {
    number: usize,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl Line {
    fn new(number: usize, column: usize, text: &str) -> Parsed<Line> {
        Ok(Line { number, tokens: tokens(text, number, column)?, at: 0, depth: 0 })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn column(&self) -> usize {
        self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn next(&mut self) -> (usize, Token) {
        let found = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        self.at += 1;
        found
    }

    fn fail<T>(&self, column: usize, expected: &str, found: &Token) -> Parsed<T> {
        error(self.number, column, format!("expected {expected}, found {}", found.show()))
    }

    fn take(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.at += usize::from(is);
        is
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is = matches!(self.peek(), Token::Word(found) if found == word);
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, sign: &str) -> Parsed<()> {
        if self.take(sign) {
            return Ok(());
        }
        self.fail(self.column(), &format!("'{sign}'"), self.peek())
    }

    fn end(&self) -> Parsed<()> {
        match self.peek() {
            Token::End => Ok(()),
            token => self.fail(self.column(), "the end of the line", token),
        }
    }

    fn name(&mut self, what: &str) -> Parsed<(usize, String)> {
        match self.next() {
            (at, Token::Word(word)) if !RESERVED.contains(&word.as_str()) => Ok((at, word)),
            (at, token) => self.fail(at, what, &token),
        }
    }

    /// A key, with its keyspace before it: `stock/apples`.
    fn key(&mut self, what: &str) -> Parsed<(usize, String)> {
        let (at, name) = self.name(what)?;
        let key = self.in_space(name)?;
        Ok((at, key))
    }

    /// What follows upon a name that may be a keyspace's.
    fn in_space(&mut self, name: String) -> Parsed<String> {
        if !self.take("/") {
            return Ok(name);
        }
        let (_, key) = self.name("a key of this keyspace")?;
        Ok(format!("{name}/{key}"))
    }

    /// Units of time.
    fn units(&mut self) -> Parsed<u64> {
        let (at, token) = self.next();
        match token {
            Token::Number(number) if (1..=UNITS_MAX as i64).contains(&number) => Ok(number as u64),
            Token::Number(_) => {
                error(self.number, at, format!("units of time are from 1 to {UNITS_MAX}"))
            }
            token => self.fail(at, "a number of units of time", &token),
        }
    }

    /// `for UNITS`, if it stands there.
    fn lasting(&mut self) -> Parsed<Option<u64>> {
        self.take_word("for").then(|| self.units()).transpose()
    }

    fn label(&mut self, session: &Session) -> Parsed<Option<String>> {
        if !self.take_word("as") {
            return Ok(None);
        }
        let (at, name) = self.name("a name")?;
        let spelled = |step: &Step| match &step.act {
            Act::Get { key, label, .. } => *key == name || label.as_ref() == Some(&name),
            Act::Put { key, .. } | Act::Delete(key) => *key == name,
            Act::Scan { label, .. } => label.as_ref() == Some(&name),
            _ => false,
        };
        if session.steps.iter().any(spelled) {
            let what = format!("'{}' has read something called '{name}' before", session.name);
            return error(self.number, at, what);
        }
        Ok(Some(name))
    }

    /// `a..b` or `a..=b`.
    fn span(&mut self) -> Parsed<Span> {
        let (at, lower) = self.key("the first key of a range")?;
        self.span_from(at, lower)
    }

    fn span_from(&mut self, at: usize, lower: String) -> Parsed<Span> {
        let inclusive = self.take("..=");
        if !inclusive && !self.take("..") {
            return self.fail(self.column(), "'..' or '..='", self.peek());
        }
        let (end, upper) = self.key("the end of the range")?;
        if space_of(&lower) != space_of(&upper) {
            return error(self.number, end, "both ends of a range lie in the same keyspace");
        }
        if upper < lower {
            return error(self.number, at, format!("the range {lower}..{upper} is backwards"));
        }
        Ok(Span { lower, upper, inclusive })
    }

    fn act(&mut self, at: usize, word: &str, session: &Session, place: usize) -> Parsed<Act> {
        Ok(match word {
            "begin" => Act::Begin,
            "get" => {
                let (_, key) = self.key("a key")?;
                let hold = match self.take_word("for") {
                    true if self.take_word("update") => Hold::Update,
                    true if self.take_word("share") => Hold::Share,
                    true => return self.fail(self.column(), "'update' or 'share'", self.peek()),
                    false => Hold::No,
                };
                Act::Get { key, hold, label: self.label(session)? }
            }
            "scan" => {
                let span = self.span()?;
                Act::Scan { span, label: self.label(session)? }
            }
            "put" => {
                let (_, key) = self.key("a key")?;
                self.sign("=")?;
                let value = self.number_of(&Context::Steps { place, session })?;
                Act::Put { key, value, lasts: self.lasting()? }
            }
            "merge" => {
                let (_, key) = self.key("a key")?;
                let negative = self.take("-");
                if !negative {
                    self.sign("+")?;
                }
                let delta = self.number_of(&Context::Steps { place, session })?;
                let delta = if negative { Expression::Minus(Box::new(delta)) } else { delta };
                Act::Merge { key, delta }
            }
            "delete" => {
                let (at, key) = self.key("a key or a range")?;
                match self.peek() {
                    Token::Sign(".." | "..=") => Act::DeleteRange(self.span_from(at, key)?),
                    _ => Act::Delete(key),
                }
            }
            "lock" => Act::LockRange(self.span()?),
            "savepoint" => {
                let (at, name) = self.name("a name")?;
                let there = |step: &Step| matches!(&step.act, Act::Savepoint(one) if *one == name);
                if session.steps.iter().any(there) {
                    return error(
                        self.number,
                        at,
                        format!("there is a savepoint '{name}' already"),
                    );
                }
                Act::Savepoint(name)
            }
            "rollback" if self.take_word("to") => {
                let (at, name) = self.name("a savepoint")?;
                let there = |step: &Step| matches!(&step.act, Act::Savepoint(one) if *one == name);
                if !session.steps.iter().any(there) {
                    return error(self.number, at, format!("no savepoint '{name}' before this"));
                }
                Act::RollbackTo(name)
            }
            "pass" => Act::Pass(self.units()?),
            "drop" => Act::Drop(self.name("a keyspace")?.1),
            "rollback" => Act::Rollback,
            "commit" => Act::Commit,
            _ => return self.fail(at, STEPS, &Token::Word(word.into())),
        })
    }

    fn number_of(&mut self, context: &Context<'_>) -> Parsed<Expression> {
        let at = self.column();
        let expression = self.expression(0, context)?;
        match expression.kind() {
            Kind::Number => Ok(expression),
            Kind::Truth => error(self.number, at, "expected a number, not a condition"),
        }
    }

    fn condition(&mut self, context: &Context<'_>) -> Parsed<Expression> {
        let at = self.column();
        let expression = self.expression(0, context)?;
        match expression.kind() {
            Kind::Truth => Ok(expression),
            Kind::Number => error(self.number, at, "expected a condition, not a number"),
        }
    }

    fn operator(&self) -> Option<Operator> {
        Some(match self.peek() {
            Token::Word(word) if word == "or" => Operator::Or,
            Token::Word(word) if word == "and" => Operator::And,
            Token::Sign("==") => Operator::Equal,
            Token::Sign("!=") => Operator::Differs,
            Token::Sign("<") => Operator::Less,
            Token::Sign("<=") => Operator::AtMost,
            Token::Sign(">") => Operator::Greater,
            Token::Sign(">=") => Operator::AtLeast,
            Token::Sign("+") => Operator::Plus,
            Token::Sign("-") => Operator::Minus,
            Token::Sign("*") => Operator::Times,
            _ => return None,
        })
    }

    /// An expression of operators that bind more tightly than `rank`.
    fn expression(&mut self, rank: u8, context: &Context<'_>) -> Parsed<Expression> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return error(self.number, self.column(), format!("deeper than {DEPTH_MAX} levels"));
        }
        let mut left = self.operand(context)?;
        while let Some(operator) = self.operator().filter(|operator| operator.rank() > rank) {
            let (at, _) = self.next();
            let right = self.expression(operator.rank(), context)?;
            let (takes, _) = operator.kinds();
            if left.kind() != takes || right.kind() != takes {
                let what = match takes {
                    Kind::Number => "numbers",
                    Kind::Truth => "conditions",
                };
                return error(self.number, at, format!("'{}' joins two {what}", operator.sign()));
            }
            left = Expression::Two(operator, Box::new(left), Box::new(right));
            let mut parts = 0;
            left.walk(&mut |_| parts += 1);
            if parts > 4 * DEPTH_MAX {
                return error(self.number, at, "the expression is too long");
            }
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operand(&mut self, context: &Context<'_>) -> Parsed<Expression> {
        let (at, token) = self.next();
        match token {
            Token::Number(number) if number > VALUE_MAX => {
                error(self.number, at, format!("a value is at most {VALUE_MAX}"))
            }
            Token::Number(number) => Ok(Expression::Number(number)),
            Token::Sign("(") => {
                let inner = self.expression(0, context)?;
                self.sign(")")?;
                Ok(inner)
            }
            Token::Sign("-") => {
                let inner = self.expression(Operator::Times.rank(), context)?;
                match inner.kind() {
                    Kind::Number => Ok(Expression::Minus(Box::new(inner))),
                    Kind::Truth => error(self.number, at, "'-' goes before a number"),
                }
            }
            Token::Word(word) => self.named(at, &word, context),
            token => self.fail(at, "a number, a name or '('", &token),
        }
    }

    fn named(&mut self, at: usize, word: &str, context: &Context<'_>) -> Parsed<Expression> {
        match word {
            "absent" => Ok(Expression::Absent),
            "not" => {
                let inner = self.expression(Operator::And.rank() + 1, context)?;
                match inner.kind() {
                    Kind::Truth => Ok(Expression::Not(Box::new(inner))),
                    Kind::Number => error(self.number, at, "'not' goes before a condition"),
                }
            }
            "count" | "sum" => {
                let aggregate = if word == "count" { Aggregate::Count } else { Aggregate::Sum };
                self.sign("(")?;
                let pairs = self.pairs(context)?;
                self.sign(")")?;
                Ok(Expression::Aggregate(aggregate, pairs))
            }
            "before" | "precedes" => {
                let Context::End { sessions } = context else {
                    return error(self.number, at, format!("'{word}' is known in the end only"));
                };
                self.sign("(")?;
                let first = self.session(sessions)?;
                self.sign(",")?;
                let second = self.session(sessions)?;
                self.sign(")")?;
                Ok(match word {
                    "before" => Expression::Before(first, second),
                    _ => Expression::Precedes(first, second),
                })
            }
            _ if RESERVED.contains(&word) => {
                self.fail(at, "a number, a name or '('", &Token::Word(word.into()))
            }
            _ => self.read(at, word, context),
        }
    }

    /// The place of a session that is named.
    fn session(&mut self, sessions: &[Session]) -> Parsed<usize> {
        let (at, name) = self.name("a session")?;
        match sessions.iter().position(|session| session.name == name) {
            Some(place) => Ok(place),
            None => error(self.number, at, format!("there is no session '{name}'")),
        }
    }

    /// A name: of a key, of what was read, or of something of a session.
    fn read(&mut self, at: usize, word: &str, context: &Context<'_>) -> Parsed<Expression> {
        let word = &self.in_space(word.to_owned())?;
        let sessions = match context {
            Context::Steps { place, session } if Context::reads(session, word) => {
                return Ok(Expression::Read(*place, word.clone()));
            }
            Context::Steps { session, .. } => {
                let what = format!("'{}' has not read '{word}' before this step", session.name);
                return error(self.number, at, what);
            }
            Context::End { sessions } => sessions,
        };
        if space_of(word).is_some() || !self.take(".") {
            return Ok(Expression::End(word.clone()));
        }
        let Some(place) = sessions.iter().position(|session| session.name == *word) else {
            return error(self.number, at, format!("there is no session '{word}'"));
        };
        if self.take_word("committed") {
            return Ok(Expression::Ended(place, Ending::Committed));
        }
        if self.take_word("aborted") {
            return Ok(Expression::Ended(place, Ending::Aborted));
        }
        let (at, name) = self.key("what it read, 'committed' or 'aborted'")?;
        if !Context::reads(&sessions[place], &name) {
            return error(self.number, at, format!("'{word}' reads nothing called '{name}'"));
        }
        Ok(Expression::Read(place, name))
    }

    /// What `count` and `sum` are about.
    fn pairs(&mut self, context: &Context<'_>) -> Parsed<Pairs> {
        let (at, word) = self.name("a scan's name or a range")?;
        match context {
            Context::Steps { place, session } if Context::scans(session, &word) => {
                Ok(Pairs::Read(*place, word))
            }
            Context::Steps { session, .. } => {
                error(self.number, at, format!("'{}' has no scan called '{word}'", session.name))
            }
            Context::End { sessions } if self.take(".") => {
                let Some(place) = sessions.iter().position(|session| session.name == word) else {
                    return error(self.number, at, format!("there is no session '{word}'"));
                };
                let (at, label) = self.name("a scan's name")?;
                match Context::scans(&sessions[place], &label) {
                    true => Ok(Pairs::Read(place, label)),
                    false => {
                        error(self.number, at, format!("'{word}' has no scan called '{label}'"))
                    }
                }
            }
            Context::End { .. } => {
                let lower = self.in_space(word)?;
                Ok(Pairs::End(self.span_from(at, lower)?))
            }
        }
    }
}
