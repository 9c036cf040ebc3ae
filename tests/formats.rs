//! The formats of histories: what is read is what was written, in every format and through all of
//! them; whatever else a file holds, it is an error with its place, never a panic and never another
//! history.

use std::fmt::Write;

use isolith_testkit::dice::{self, Dice};
use isolith_testkit::history::convert::{self, Format};
use isolith_testkit::history::{
    Fault, History, Name, Operation, Outcome, ReadError, Transaction, Value, edn, jsonl,
};
use proptest::prelude::*;

/// Everything that a history tells, for comparison: names instead of places.
fn told(history: &History) -> Vec<String> {
    let ranks = ranks(history);
    let all = history.transactions().iter().enumerate();
    all.map(|(place, transaction)| {
        let mut text = format!(
            "{} {:?} {}..{}",
            transaction.process,
            transaction.outcome,
            rank(&ranks, transaction.invoked),
            rank(&ranks, transaction.completed),
        );
        if transaction.initial {
            text = "initial".to_owned();
        }
        let _ = write!(text, " {:?} {:?}:", transaction.level, transaction.commit);
        for operation in history.operations(place) {
            let _ = write!(text, " {}", operation_told(history, *operation));
        }
        text
    })
    .collect()
}

/// Positions in order, so that only their order is compared.
fn ranks(history: &History) -> Vec<u32> {
    let known = |position: &u32| *position != 0 && *position != Transaction::NEVER;
    let all = history.transactions().iter().filter(|transaction| !transaction.initial);
    let mut ranks: Vec<u32> = all
        .flat_map(|transaction| [transaction.invoked, transaction.completed])
        .filter(known)
        .collect();
    ranks.sort_unstable();
    ranks
}

fn rank(ranks: &[u32], position: u32) -> String {
    ranks.binary_search(&position).map_or_else(|_| "?".to_owned(), |rank| rank.to_string())
}

fn operation_told(history: &History, operation: Operation) -> String {
    let value = |value: Value| {
        history.value_name(value).map_or_else(|| "nil".to_owned(), |name| name.to_string())
    };
    let values = |list: &[Value]| list.iter().map(|v| value(*v)).collect::<Vec<_>>().join(" ");
    let key = operation.key().map(|key| history.key_name(key).to_string()).unwrap_or_default();
    match operation {
        Operation::Append { value: v, .. } => format!("append {key} {}", value(v)),
        Operation::ReadList { key: k, list } => {
            format!("list {key} [{}]", values(history.list(k, list)))
        }
        Operation::Write { value: v, .. } => format!("write {key} {}", value(v)),
        Operation::Read { value: v, .. } => format!("read {key} {}", value(v)),
        Operation::ReadUnknown { .. } => format!("read {key} ?"),
        Operation::Insert { value: v, .. } => format!("insert {key} {}", value(v)),
        Operation::Delete { .. } => format!("delete {key}"),
        Operation::ReadWhere { predicate, found } => {
            let pairs: Vec<String> = history
                .found(found)
                .map(|(k, v)| format!("{}={}", history.key_name(k), value(v)))
                .collect();
            format!("where {:?} {}", history.predicate_at(predicate), pairs.join(" "))
        }
        Operation::ReadWhereUnknown { predicate } => {
            format!("where {:?} ?", history.predicate_at(predicate))
        }
        Operation::Add { value: v, .. } => format!("add {key} {}", value(v)),
        Operation::CompareAndSet { pair, .. } => {
            let (old, new) = history.old_and_new(pair);
            format!("cas {key} {} {}", value(old), value(new))
        }
        Operation::Transfer { pair, .. } => {
            let (to, amount) = history.other_and_amount(pair);
            format!("transfer {key} {} {}", history.key_name(to), value(amount))
        }
    }
}

/// What workload a random history has.
#[derive(Clone, Copy, Debug)]
enum Load {
    Lists,
    Registers,
    Predicates,
    Bank,
    Set,
    Counter,
    Cas,
}

const LOADS: [Load; 7] = [
    Load::Lists,
    Load::Registers,
    Load::Predicates,
    Load::Bank,
    Load::Set,
    Load::Counter,
    Load::Cas,
];

/// Events of a random history: not a possible one, but a well-formed one.
struct Events {
    dice: Dice,
    load: Load,
    serial: i64,
    lines: Vec<(String, String)>,
}

impl Events {
    fn new(seed: u64, load: Load, transactions: usize) -> Events {
        let dice = Dice::new(seed);
        let mut events = Events { dice, load, serial: 0, lines: Vec::new() };
        let mut open: Vec<(u32, Vec<[String; 2]>)> = Vec::new();
        let (mut begun, mut next_process) = (0, 5);
        let mut free = vec![0, 1, 2, 3, 4];
        while begun < transactions || !open.is_empty() {
            let begins = begun < transactions && !free.is_empty();
            if begins && (open.is_empty() || events.dice.is(1, 2)) {
                let place = events.dice.below(free.len());
                let process = free.swap_remove(place);
                let operations = events.operations();
                events.line("invoke", process, &operations, false);
                open.push((process, operations));
                begun += 1;
                continue;
            }
            if open.is_empty() {
                break;
            }
            let place = events.dice.below(open.len());
            let (process, operations) = open.swap_remove(place);
            match events.dice.below(10) {
                0 => {
                    events.line("info", process, &operations, false);
                    free.push(next_process);
                    next_process += 1;
                }
                1 => {
                    events.line("fail", process, &operations, false);
                    free.push(process);
                }
                // Never completed.
                2 => {
                    free.push(next_process);
                    next_process += 1;
                }
                _ => {
                    events.line("ok", process, &operations, true);
                    free.push(process);
                }
            }
        }
        events
    }

    fn fresh(&mut self) -> i64 {
        self.serial += 1;
        self.serial
    }

    fn key(&mut self) -> String {
        match (self.load, self.dice.below(4)) {
            (Load::Bank, key) => key.to_string(),
            (_, 0) => ":x".to_owned(),
            (_, 1) => "\"a b\"".to_owned(),
            (_, key) => key.to_string(),
        }
    }

    /// Operations, each before and after it is known what it read.
    fn operations(&mut self) -> Vec<[String; 2]> {
        let count = match self.load {
            Load::Lists | Load::Registers | Load::Predicates => self.dice.below(4),
            _ => 1,
        };
        (0..count).map(|_| self.operation()).collect()
    }

    fn operation(&mut self) -> [String; 2] {
        let same = |text: String| [text.clone(), text];
        let (key, value, kind) = (self.key(), self.fresh(), self.dice.below(6));
        let old = self.dice.below(value as usize + 1);
        let list = (0..self.dice.below(5)).map(|e| e.to_string()).collect::<Vec<_>>().join(" ");
        match (self.load, kind) {
            (Load::Lists, 0..=2) => same(format!("[:append {key} {value}]")),
            (Load::Lists, _) => [format!("[:r {key} nil]"), format!("[:r {key} [{list}]]")],
            (Load::Predicates, 0) => same(format!("[:insert {key} {value}]")),
            (Load::Predicates, 1) => same(format!("[:delete {key}]")),
            (Load::Predicates, 2..=3) => {
                let asked = ["true", "[:= 3]", "[:mod 2 1]", "[:between 0 7]"];
                let asked = *self.dice.pick(&asked);
                let found = format!("[:rp {asked} {{{key} {old}, 77 {value}}}]");
                [format!("[:rp {asked} nil]"), found]
            }
            (Load::Registers, 0..=1) | (Load::Predicates, 4) => same(format!("[:w {key} {value}]")),
            (Load::Registers, 2) => [format!("[:r {key}]"), format!("[:r {key} nil]")],
            (Load::Registers | Load::Predicates, _) => {
                [format!("[:r {key} nil]"), format!("[:r {key} {old}]")]
            }
            (Load::Bank, 0..=2) => {
                same(format!("transfer {{:from {key}, :to {}, :amount {value}}}", self.key()))
            }
            (Load::Bank, _) => {
                ["read nil".to_owned(), format!("read {{0 {value}, 1 {old}, 2 -3}}")]
            }
            (Load::Set, 0..=3) => same(format!("add {value}")),
            (Load::Set, _) => ["read nil".to_owned(), format!("read [{list}]")],
            (Load::Counter, 0..=3) => same(format!("add {old}")),
            (Load::Counter, _) => ["read nil".to_owned(), format!("read {old}")],
            (Load::Cas, 0..=1) => same(format!("write {value}")),
            (Load::Cas, 2..=3) => same(format!("cas [{old} {value}]")),
            (Load::Cas, _) => ["read nil".to_owned(), format!("read {old}")],
        }
    }

    fn line(&mut self, kind: &str, process: u32, operations: &[[String; 2]], done: bool) {
        let texts: Vec<&str> =
            operations.iter().map(|pair| pair[usize::from(done)].as_str()).collect();
        let (function, value) = match (self.load, texts.as_slice()) {
            (Load::Lists | Load::Registers | Load::Predicates, texts) => {
                ("txn", format!("[{}]", texts.join(" ")))
            }
            (_, [alone]) => {
                let (function, value) = alone.split_once(' ').unwrap_or((alone, "nil"));
                (function, value.to_owned())
            }
            _ => ("read", "nil".to_owned()),
        };
        let function = format!(":f :{function}, ");
        let mut head = format!(":type :{kind}, :process {process}, ");
        if self.dice.is(1, 3) {
            head.push_str(":isolation :snapshot, ");
        }
        if kind == "ok" && self.dice.is(1, 3) {
            let _ = write!(head, ":commit {}, ", self.lines.len());
        }
        self.lines.push((head, format!("{function}:value {value}")));
    }

    fn edn(&self) -> String {
        let mut text = String::new();
        for (index, (head, value)) in self.lines.iter().enumerate() {
            let _ = writeln!(text, "{{:index {index}, {head}{value}}}");
        }
        text
    }
}

fn read(text: &str, format: Format) -> Result<History, ReadError> {
    convert::read(text.as_bytes(), Some(format))
}

fn written(history: &History, format: Format) -> String {
    let mut bytes = Vec::new();
    convert::write(history, format, &mut bytes).expect("the format can say it");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn jepsens_formats_keep_everything() {
    let seed = dice::run_seed("jepsens_formats_keep_everything");
    for round in 0..40 * dice::effort() as u64 {
        for load in LOADS {
            let text = Events::new(seed ^ round, load, 30).edn();
            let first = read(&text, Format::Edn).unwrap_or_else(|why| panic!("{why}\n{text}"));
            let mut before = first.clone();
            for format in [Format::Edn, Format::Jsonl, Format::Jsonl, Format::Edn] {
                let text = written(&before, format);
                let after = read(&text, format).unwrap_or_else(|why| panic!("{why}\n{text}"));
                assert_eq!(told(&first), told(&after), "{load:?} {format:?}\n{text}");
                assert_eq!(Format::of_content(text.as_bytes()), format);
                before = after;
            }
        }
    }
}

/// A history of registers that other checkers would take: unique values, no loose ends.
fn registers(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let (mut text, mut latest) = (String::new(), [0; 4]);
    for number in 1..40 {
        let session = dice.below(4);
        for _ in 0..1 + dice.below(3) {
            let key = dice.below(4);
            if dice.is(1, 2) {
                latest[key] = 1000 * number + key;
                let _ = writeln!(text, "w({key},{},{session},{number})", latest[key]);
            } else {
                let _ = writeln!(text, "r({key},{},{session},{number})", latest[key]);
            }
        }
        if dice.is(1, 8) {
            let _ = writeln!(text, "w({},{},{session},-1)", dice.below(4), 1000 * number + 999);
        }
    }
    text
}

#[test]
fn formats_of_registers_keep_sessions_and_values() {
    let seed = dice::run_seed("formats_of_registers_keep_sessions_and_values");
    for round in 0..40 * dice::effort() as u64 {
        let text = registers(seed ^ round);
        let first = read(&text, Format::Plain).unwrap();
        let plain = written(&first, Format::Plain);
        assert_eq!(told(&first), told(&read(&plain, Format::Plain).unwrap()), "{text}\n{plain}");
        let dbcop = written(&first, Format::Dbcop);
        let back = read(&dbcop, Format::Dbcop).unwrap();
        // Through dbcop what was 0 is nothing, and sessions lie one behind the other.
        let again = written(&back, Format::Dbcop);
        assert_eq!(told(&back), told(&read(&again, Format::Dbcop).unwrap()));
        assert_eq!(dbcop, again);
        let jsonl = written(&first, Format::Jsonl);
        let back = read(&jsonl, Format::Jsonl).unwrap();
        assert_eq!(told(&first), told(&back), "{jsonl}");
        for (text, format) in
            [(&plain, Format::Plain), (&dbcop, Format::Dbcop), (&jsonl, Format::Jsonl)]
        {
            assert_eq!(Format::of_content(text.as_bytes()), format);
        }
    }
}

/// A field that no history has makes the careful reader take the line.
#[test]
fn both_readers_of_json_say_the_same() {
    let seed = dice::run_seed("both_readers_of_json_say_the_same");
    for round in 0..60 * dice::effort() as u64 {
        for load in [Load::Lists, Load::Registers] {
            let history = read(&Events::new(seed ^ round, load, 30).edn(), Format::Edn).unwrap();
            let mut dice = Dice::new(seed ^ round);
            let fast: Vec<String> = written(&history, Format::Jsonl)
                .lines()
                .map(|line| if dice.is(1, 4) { mutated(line, &mut dice) } else { line.to_owned() })
                .collect();
            for line in &fast {
                let careful = match line.strip_prefix('{') {
                    Some(rest) => format!("{{\"extra\":[],{rest}"),
                    None => line.clone(),
                };
                compare(line, &careful);
            }
            let careful = fast.join("\n").replace("{\"index\"", "{\"extra\":[],\"index\"");
            compare(&fast.join("\n"), &careful);
        }
    }
}

fn compare(one: &str, other: &str) {
    match (read(one, Format::Jsonl), read(other, Format::Jsonl)) {
        (Ok(one_read), Ok(other_read)) => {
            assert_eq!(told(&one_read), told(&other_read), "{one}\n{other}");
        }
        (Err(one_why), Err(other_why)) => {
            let (one_line, other_line) = (one_why.place.line, other_why.place.line);
            assert_eq!(one_line, other_line, "{one_why}\n{other_why}\n{one}\n{other}");
        }
        (one_read, other_read) => {
            panic!("{:?}\n{:?}\n{one}\n{other}", one_read.err(), other_read.err())
        }
    }
}

/// Text with something changed that stays text.
fn mutated(text: &str, dice: &mut Dice) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..1 + dice.below(3) {
        let place = dice.below(letters.len().max(1));
        let other = *dice.pick(&[
            '{', '}', '[', ']', '(', ')', '"', ',', ':', ' ', '0', '1', '9', '-', '.', 'e', 'r',
            'w', 'n', '\\', '#', '_', '^', ';', '\u{0}', 'ä', '😀', '\n', '\r', '\t', '/', '@',
        ]);
        match dice.below(4) {
            0 => letters.insert(place.min(letters.len()), other),
            1 if place < letters.len() => {
                letters.remove(place);
            }
            2 if place < letters.len() => {
                let end = (place + dice.below(12)).min(letters.len());
                let copy: Vec<char> = letters[place..end].to_vec();
                let to = dice.below(letters.len());
                letters.splice(to..to, copy);
            }
            _ if place < letters.len() => letters[place] = other,
            _ => {}
        }
    }
    letters.into_iter().collect()
}

/// What every reading must keep, whatever it read: an error has a place in the text, and a history
/// can be written and read again.
fn is_sane(bytes: &[u8], format: Format) {
    match convert::read(bytes, Some(format)) {
        Ok(history) => {
            assert!(!history.transactions().is_empty());
            for format in [Format::Jsonl, Format::Edn] {
                let mut text = Vec::new();
                if convert::write(&history, format, &mut text).is_err() {
                    continue;
                }
                let again = convert::read(text.as_slice(), Some(format));
                let shown = String::from_utf8_lossy(&text);
                let again = again.unwrap_or_else(|why| panic!("{format:?} {why}\n{shown}"));
                match format {
                    // Characters, symbols and sets are strings and arrays from now on.
                    Format::Jsonl => assert_eq!(written(&again, format), shown),
                    _ => assert_eq!(told(&history), told(&again), "{format:?}\n{shown}"),
                }
            }
        }
        Err(why) => {
            assert!(why.place.offset <= bytes.len() as u64, "{why}");
            assert!(!why.is_io());
            assert!(!why.to_string().contains('\n') || bytes.contains(&b'\n'));
        }
    }
}

#[test]
fn a_beginning_is_an_error_or_the_history_so_far() {
    let seed = dice::run_seed("a_beginning_is_an_error_or_the_history_so_far");
    for load in LOADS {
        let whole = read(&Events::new(seed, load, 8).edn(), Format::Edn).unwrap();
        for format in [Format::Edn, Format::Jsonl] {
            let text = written(&whole, format);
            for end in 0..text.len() {
                let read = convert::read(&text.as_bytes()[..end], Some(format));
                let lines = text[..end].lines().filter(|line| !line.is_empty()).count();
                let is_whole = text[..end].ends_with(['}', '\n']) || end == 0;
                match read {
                    Ok(history) => {
                        assert!(is_whole, "{}", &text[..end]);
                        let events = history.transactions().iter().map(|transaction| {
                            1 + usize::from(transaction.completed != Transaction::NEVER)
                        });
                        assert!(events.sum::<usize>() <= lines);
                    }
                    Err(ReadError { fault: Fault::Empty, .. }) => assert_eq!(lines, 0),
                    Err(why) => {
                        assert_eq!(why.place.line, lines as u64, "{why}\n{}", &text[..end]);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(600 * dice::effort() as u32)
    })]

    #[test]
    fn a_changed_history_is_never_a_panic(seed: u64, load in 0..LOADS.len(), changes in 1..8_usize) {
        let mut dice = Dice::new(seed);
        let history = read(&Events::new(seed, LOADS[load], 6).edn(), Format::Edn).unwrap();
        let formats = [Format::Edn, Format::Jsonl, Format::Plain, Format::Dbcop];
        for format in formats {
            let mut bytes = Vec::new();
            if convert::write(&history, format, &mut bytes).is_err() {
                bytes = registers(seed).into_bytes();
            }
            let mut text = String::from_utf8(bytes).unwrap();
            for _ in 0..changes {
                text = mutated(&text, &mut dice);
            }
            is_sane(text.as_bytes(), format);
            let mut bytes = text.into_bytes();
            let place = dice.below(bytes.len() + 1);
            bytes.insert(place, dice.roll() as u8);
            is_sane(&bytes, format);
            // Taken for another format it is wrong in another way.
            is_sane(&bytes, *dice.pick(&formats));
        }
    }

    #[test]
    fn any_bytes_are_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in Format::ALL {
            is_sane(&bytes, format);
        }
        let _ = convert::read(bytes.as_slice(), None);
    }

    #[test]
    fn edn_and_json_values_come_back(text in "[ -~]{0,12}", number: i64) {
        if let Ok(datum) = edn::parse(&text) {
            prop_assert_eq!(edn::parse(&datum.to_string()).unwrap(), datum);
        }
        if let Ok(datum) = jsonl::parse(&text) {
            let mut json = String::new();
            datum.write_json(&mut json);
            prop_assert_eq!(jsonl::parse(&json).unwrap(), datum);
        }
        let text = number.to_string();
        prop_assert_eq!(edn::parse(&text).unwrap().int(), Some(number));
        prop_assert_eq!(jsonl::parse(&text).unwrap().int(), Some(number));
    }
}

fn fault(text: &str, format: Format) -> (u64, String) {
    let why = read(text, format).expect_err(text);
    (why.place.line, why.fault.to_string())
}

#[test]
fn contradictions_are_told_with_their_line() {
    let line = |kind: &str, process: u32, rest: &str| {
        format!(
            "{{\"type\":\"{kind}\",\"process\":{process},{rest}\"value\":[[\"append\",1,1]]}}\n"
        )
    };
    let begin = line("invoke", 0, "");
    let ok = line("ok", 0, "");
    let cases = [
        (format!("{begin}{begin}"), 2, "process 0 begins an operation while the one of line 1"),
        (format!("{begin}{ok}{ok}"), 3, "its last one was complete at line 2"),
        (format!("{begin}{}", line("ok", 1, "")), 2, "process 1 completes an operation"),
        (format!("{ok}{}", line("invoke", 2, "")), 1, "process 0 completes an operation"),
        (
            format!("{}{}", line("invoke", 0, "\"index\":7,"), line("ok", 0, "\"index\":7,")),
            2,
            "index 7 is that of line 1, too",
        ),
        (
            format!("{}{}", line("invoke", 0, "\"index\":7,"), line("ok", 0, "\"index\":3,")),
            2,
            "index 3 after 7 (line 1): indices must grow",
        ),
        (
            format!("{}{}", line("invoke", 0, "\"f\":\"txn\","), line("ok", 0, "\"f\":\"cas\",")),
            2,
            "completes cas, but line 1 began txn",
        ),
        (format!("{begin}{{\"type\":\"ok\",\"value\":[]}}"), 2, "some operations name their"),
        (
            format!("{begin}{}", line("ok", 0, "").replace("1,1]", "1,2]")),
            2,
            "other operations than those that line 1 began",
        ),
        (
            format!("{begin}{}", line("ok", 0, "").replace("]]", "],[\"append\",2,2]]")),
            2,
            "other operations than those that line 1 began",
        ),
        (format!("{begin}\n\n{{\"type\":\"maybe\",\"process\":0}}"), 4, "the type is :maybe"),
        (format!("{begin}{{\"process\":0}}"), 2, "without its type"),
        (line("invoke", 0, "\"process\":0,"), 1, "twice"),
        (line("invoke", 0, "\"f\":\"dequeue\",").replace("[[\"append\",1,1]]", "7"), 1, "dequeue"),
        ("{\"type\":\"invoke\",\"process\":0}".to_owned(), 1, "without its value"),
        (line("invoke", 0, "\"index\":-1,"), 1, "the index is -1"),
        (line("invoke", 0, "\"isolation\":\"total\","), 1, "the isolation is :total"),
        ("{\"type\":\"invoke\",\"process\":4294967295,\"value\":[]}".to_owned(), 1, "the process"),
        (line("invoke", 0, "").replace("append", "push"), 1, "push is an operation of no"),
        (line("invoke", 0, "").replace("1]]", "1e300]]"), 1, "too large to be told from"),
        ("[1]".to_owned(), 1, "expected an object of its fields"),
        ("7".to_owned(), 1, "expected a map of its fields"),
    ];
    for (text, expected_line, expected) in cases {
        let (line, what) = fault(&text, Format::Jsonl);
        assert!(line == expected_line && what.contains(expected), "{line}: {what}\n{text}");
    }
    for (text, expected_line, expected) in [
        ("r(1,2,3)", 1, "expected r(key,value,session,transaction)"),
        ("r(1,2,3,4)\nw(1,2,3,4,5)", 2, "expected r("),
        ("r(1,2,3,4)\n\nr(1,2,4,4)", 3, "transaction 4 is of session 3, and of 4, too"),
        ("r(1,2,4294967295,4)", 1, "the session is 4294967295"),
        ("", 0, "no operation"),
    ] {
        let (line, what) = fault(text, Format::Plain);
        assert!(line == expected_line && what.contains(expected), "{line}: {what}\n{text}");
    }
    for (text, expected) in [
        ("[[{\"events\":[[\"r\",1]],\"committed\":true}]]", "three parts"),
        ("[[{\"events\":[],\"committed\":1}]]", "expected a boolean"),
        ("{\"data\":[],\"data\":[]}", "duplicate field"),
        ("{\"params\":1}", "missing field `data`"),
        (
            "[[{\"events\":[{\"Write\":{\"variable\":1,\"version\":null}}],\"committed\":true}]]",
            "version",
        ),
        ("[[", "it ends in the middle of the sessions"),
    ] {
        let (_, what) = fault(text, Format::Dbcop);
        assert!(what.contains(expected), "{what}\n{text}");
    }
}

#[test]
fn hostile_texts_are_told_quickly() {
    let deep = |open: &str| open.repeat(200_000);
    for open in ["[", "{:a ", "#{", "(", "#_", "^{:a 1}", "#a ", "#:a{:b ", "[{"] {
        let (_, what) = fault(&format!("{{:type {}", deep(open)), Format::Edn);
        assert!(what.contains("nested deeper"), "{open}: {what}");
    }
    for open in ["[", "{\"a\":"] {
        let text = format!("{{\"type\":{}", deep(open));
        let (_, what) = fault(&text, Format::Jsonl);
        assert!(what.contains("nested deeper"), "{open}: {what}");
        let (_, what) = fault(&format!("[[{{\"events\":{}", deep(open)), Format::Dbcop);
        assert!(what.contains("nested deeper") || what.contains("expected a s"), "{open}: {what}");
    }
    let op = |value: &str| format!("{{:type :ok, :process 0, :value [[:r :x {value}]]}}");
    // Numbers of any length are values, and stay what they are.
    let long = "9".repeat(100_000);
    let history = read(&op(&long), Format::Edn).unwrap();
    let Operation::Read { value, .. } = history.operations(0)[0] else { panic!("no read") };
    assert_eq!(history.value_name(value), Some(Name::Text(long.clone().into())));
    // JSON's would become the same as their neighbours, so they are none.
    let json = "{\"type\":\"ok\",\"process\":0,\"value\":[[\"r\",\"x\",9999999999999999999999]]}";
    assert!(fault(json, Format::Jsonl).1.contains("too large"));
    // One long line.
    let list = "1 ".repeat(300_000);
    let history = read(&op(&format!("[{list}]")), Format::Edn).unwrap();
    assert_eq!(history.transactions().len(), 1);
    let list = "1,".repeat(300_000);
    let list = list.trim_end_matches(',');
    let json = format!("{{\"type\":\"ok\",\"process\":0,\"value\":[[\"r\",\"x\",[{list}]]]}}");
    assert_eq!(read(&json, Format::Jsonl).unwrap().transactions().len(), 1);
    let array = format!("[{json}\n,\n{json}]");
    assert_eq!(read(&array, Format::Jsonl).unwrap().transactions().len(), 2);
}

#[test]
fn what_editors_and_systems_add_is_allowed() {
    let edn = "{:type :invoke, :process 0, :value [[:append :x 1]]}\r\n\
               {:type :ok, :process 0, :value [[:append :x 1]]}\r\n";
    let json = "{\"type\":\"invoke\",\"process\":0,\"value\":[[\"append\",\"x\",1]]}\r\n\r\n\
                {\"type\":\"ok\",\"process\":0,\"value\":[[\"append\",\"x\",1]]}";
    let plain = "w(1,1,0,0)\r\n";
    for (text, format) in [(edn, Format::Edn), (json, Format::Jsonl), (plain, Format::Plain)] {
        let marked = format!("\u{feff}{text}");
        assert_eq!(Format::of_content(marked.as_bytes()), format);
        let history = convert::read(marked.as_bytes(), None).unwrap();
        assert_eq!(told(&history), told(&read(text, format).unwrap()));
        let committed =
            history.transactions().iter().filter(|txn| txn.outcome == Outcome::Committed);
        assert!(committed.count() >= 1);
    }
    for bytes in [&b"\xff\xfe{"[..], b"{:type :\xc3\x28}", b"{\"type\":\"\xff\"}", b"r(\xff,1,1,1)"]
    {
        for format in Format::ALL {
            let why = convert::read(bytes, Some(format)).expect_err("not UTF-8");
            assert!(why.place.line == 1, "{why}");
        }
    }
    for empty in ["", " \n\r\n ", "\u{feff}", "; nothing\n", "[]", "#_ {:type :ok}"] {
        let why = convert::read(empty.as_bytes(), None).expect_err("nothing there");
        assert!(matches!(why.fault, Fault::Empty), "{empty:?} {why}");
    }
}

#[test]
fn everything_that_edn_has_is_read() {
    for (text, shown) in [
        ("#jepsen.history.Op{:a 1}", "{:a 1}"),
        ("#inst \"2020-01-01\"", "#inst \"2020-01-01\""),
        ("#:a{:b 1, :_/c 2, :d/e 3}", "{:a/b 1, :c 2, :d/e 3}"),
        ("#::a{:b 1} ", "{:a/b 1}"),
        (
            "^{:line 1} [1 2/3 -1.5e3 1.5M ##Inf 12N 0x1F 017 2r101 +5]",
            "[1 2/3 -1500.0 1.5M ##Inf 12 31 15 5 5]",
        ),
        (
            "(a b/c \\newline \\a \\u00e4 \\\\ \\( \\space)",
            "(a b/c \\newline \\a \\ä \\\\ \\( \\space)",
        ),
        ("#{1 #_2 3} ; a comment", "#{1 3}"),
        ("\"a\\n\\t\\\"\\\\\\u00e4\\ud83d\\ude00\\101\"", "\"a\\n\\t\\\"\\\\ä😀A\""),
        ("[nil true false ::a :b/c]", "[nil true false :a :b/c]"),
        (
            "[9223372036854775807 -9223372036854775808 9223372036854775808]",
            "[9223372036854775807 -9223372036854775808 9223372036854775808]",
        ),
        ("{,,,:a,,, #_ #_ 1 2 3}", "{:a 3}"),
    ] {
        let datum = edn::parse(text).unwrap_or_else(|why| panic!("{why}: {text}"));
        assert_eq!(datum.to_string(), shown);
        assert_eq!(edn::parse(shown).unwrap(), datum);
    }
    for (text, expected) in [
        ("{:a}", "the key :a has no value"),
        ("{:a 1 :a 2}", "the key :a is there twice"),
        ("[1 2", "it ends in the middle of a list"),
        ("\"abc", "it ends in the middle of a string"),
        ("\"\\q\"", "a backslash before what needs none"),
        ("\"\\ud83d\\n\\n\"", "surrogates"),
        ("]", "closes nothing"),
        ("1 2", "something follows"),
        ("1x", "no number is 1x"),
        ("08", "no number is 08"),
        ("0x-5", "no number is 0x-5"),
        ("\\abc", "no character is called abc"),
        (":", "a colon without a name"),
        (":::", "a colon without a name"),
        ("#:::a{:b 1}", "a namespace without a name"),
        ("#", "it ends in the middle of a value"),
        ("@a", "begins nothing"),
    ] {
        let why = edn::parse(text).expect_err(text);
        assert!(why.to_string().contains(expected), "{why}: {text}");
    }
}
