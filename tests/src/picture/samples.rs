//! Pictures to look at: what the tests draw.

use super::*;

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn read(who: usize, key: &str, value: &str) -> Event {
    let operation = Operation::Read { key: bytes(key), intent: Intent::Look };
    let value = (!value.is_empty()).then(|| bytes(value));
    Event::new(who, operation, Outcome::Value(value))
}

fn write(who: usize, key: &str, value: &str) -> Event {
    Event::new(who, Operation::Write { key: bytes(key), value: bytes(value) }, Outcome::Done)
}

fn simple(who: usize, operation: Operation) -> Event {
    Event::new(who, operation, Outcome::Done)
}

fn commit(who: usize) -> [Event; 3] {
    let round = Event { transaction: None, ..simple(0, Operation::Round) };
    [
        Event::new(who, Operation::Commit, Outcome::Waits(Vec::new())),
        round,
        simple(who, Operation::Commit),
    ]
}

fn transaction(who: usize, isolation: &str, concurrency: &str, end: End) -> Transaction {
    Transaction {
        name: format!("T{}", who + 1),
        lane: who,
        isolation: isolation.into(),
        concurrency: concurrency.into(),
        end,
        place: String::new(),
    }
}

fn lanes(count: usize) -> Vec<Lane> {
    let name = |lane| match char::from_u32('A' as u32 + lane as u32) {
        Some(letter) if count <= 26 => format!("session {letter}"),
        _ => format!("process {lane}"),
    };
    (0..count).map(|lane| Lane { name: name(lane) }).collect()
}

/// Two transactions at snapshot, each of which reads what the other writes.
pub fn write_skew() -> Picture {
    let begin = |who| simple(who, Operation::Begin);
    let mut events = vec![
        begin(0),
        read(0, "x", "1"),
        read(0, "y", "1"),
        begin(1),
        read(1, "x", "1"),
        read(1, "y", "1"),
        write(0, "x", "0"),
        write(1, "y", "0"),
    ];
    events.extend(commit(0));
    events.extend(commit(1));
    let edge = |from, to, read, write| Edge {
        from_event: Some(read),
        to_event: Some(write),
        ..Edge::new(from, to, EdgeKind::ReadWrite)
    };
    Picture {
        anomaly: Anomaly {
            name: "G2-item".into(),
            title: "write skew".into(),
            definition: "Two transactions each read what the other writes; run one after the \
                         other, the second would have seen what the first wrote."
                .into(),
            source: "Adya, Weak Consistency, 1999, G2-item; Berenson et al., 1995, A5B".into(),
            forbidden_by: vec!["repeatable-read".into(), "serializable".into()],
        },
        verdict: Verdict::Allowed,
        lanes: lanes(2),
        transactions: vec![
            transaction(0, "snapshot", "optimistic", End::Committed(Some(2))),
            transaction(1, "snapshot", "optimistic", End::Committed(Some(3))),
        ],
        initial: vec![(bytes("x"), bytes("1")), (bytes("y"), bytes("1"))],
        expiring: Vec::new(),
        keyspaces: Vec::new(),
        hot: Vec::new(),
        events,
        edges: vec![edge(0, 1, 2, 7), edge(1, 0, 4, 6)],
        cycle: vec![0, 1],
        remarks: vec!["x + y >= 1 held before, and does not now.".into()],
        replay: vec![
            "isolith anomalies explain G2-item --isolation snapshot --concurrency optimistic"
                .into(),
        ],
        left_out: 0,
    }
}

/// An older transaction takes the lock of a younger one, which is refused.
pub fn wounded() -> Picture {
    let begin = |who| simple(who, Operation::Begin);
    let update = |who, outcome| {
        let key = bytes("stock");
        Event::new(who, Operation::Read { key, intent: Intent::Update }, outcome)
    };
    let seen = || Outcome::Value(Some(bytes("3")));
    let refused =
        Outcome::Refused { why: Refusal::Wounded, by: vec![0], said: "wounded by 1".into() };
    let mut events = vec![begin(0), begin(1), update(1, seen())];
    // The older one takes the lock at once; the younger one learns it with its next move.
    events.extend([update(0, seen()), begin(2), update(2, Outcome::Waits(vec![0]))]);
    events.push(Event::new(
        1,
        Operation::Write { key: bytes("stock"), value: bytes("2") },
        refused,
    ));
    events.push(write(0, "stock", "2"));
    events.extend(commit(0));
    events.extend([update(2, Outcome::Value(Some(bytes("2")))), write(2, "stock", "1")]);
    events.extend(commit(2));
    let with = |who, end| transaction(who, "serializable", "locking:wound-wait", end);
    Picture {
        anomaly: Anomaly {
            name: "P4".into(),
            title: "lost update".into(),
            definition: "A key is read, then written by somebody else, and then by the reader, \
                         who does not know: what the other wrote is lost."
                .into(),
            source: "Berenson et al., A Critique of ANSI SQL Isolation Levels, 1995, P4".into(),
            forbidden_by: vec!["repeatable-read".into(), "snapshot".into(), "serializable".into()],
        },
        verdict: Verdict::Prevented("T2 was wounded by T1, which is older, before it wrote".into()),
        lanes: lanes(3),
        transactions: vec![
            with(0, End::Committed(Some(2))),
            with(1, End::Aborted),
            with(2, End::Committed(Some(3))),
        ],
        initial: vec![(bytes("stock"), bytes("3"))],
        expiring: Vec::new(),
        keyspaces: Vec::new(),
        events,
        edges: vec![Edge {
            key: Some(bytes("stock")),
            from_event: Some(7),
            to_event: Some(11),
            ..Edge::new(0, 2, EdgeKind::WriteRead)
        }],
        ..Picture::default()
    }
}

/// What the two do that make the edge of this number: who comes first, and `second`.
fn ends_of(edge: usize, second: usize) -> (Option<Event>, Option<Event>) {
    let key = format!("k{edge}");
    let scan = |who, pairs| {
        let operation = Operation::Scan {
            predicate: String::new(),
            lower: Some(bytes(&key)),
            upper: Some(bytes(&format!("{key}~"))),
        };
        Event::new(who, operation, Outcome::Pairs(pairs))
    };
    match EdgeKind::ALL[edge % 7] {
        EdgeKind::WriteWrite => (Some(write(edge, &key, "1")), Some(write(second, &key, "2"))),
        EdgeKind::WriteRead => (Some(write(edge, &key, "1")), Some(read(second, &key, "1"))),
        EdgeKind::ReadWrite => (Some(read(edge, &key, "")), Some(write(second, &key, "1"))),
        EdgeKind::PredicateReadWrite => {
            (Some(scan(edge, Vec::new())), Some(write(second, &key, "1")))
        }
        EdgeKind::PredicateWriteRead => {
            (Some(write(edge, &key, "1")), Some(scan(second, vec![(bytes(&key), bytes("1"))])))
        }
        EdgeKind::Process | EdgeKind::RealTime => (None, None),
    }
}

/// A cycle of every kind of edge, through so many transactions.
pub fn cycle(length: usize) -> Picture {
    let mut places = Vec::new();
    let mut picture = Picture {
        anomaly: Anomaly {
            name: "G2".into(),
            title: "anti-dependency cycle".into(),
            definition: "The dependencies go round in a circle, and some of them are reads that \
                         were overtaken."
                .into(),
            source: "Adya, Weak Consistency, 1999, G2".into(),
            forbidden_by: vec!["serializable".into()],
        },
        verdict: Verdict::Forbidden("serializable".into()),
        lanes: lanes(length.min(7)),
        ..Picture::default()
    };
    for who in 0..length {
        picture.transactions.push(Transaction {
            lane: who % length.min(7),
            place: format!("line {}", 2 * who + 1),
            ..transaction(who, "serializable", "", End::Committed(None))
        });
        let before = (who + length - 1) % length;
        let (_, second) = ends_of(before, who);
        let (first, _) = ends_of(who, who);
        let at = picture.events.len();
        picture.events.push(simple(who, Operation::Begin));
        let second_at = second.map(|event| {
            picture.events.push(event);
            picture.events.len() - 1
        });
        let first_at = first.map(|event| {
            picture.events.push(event);
            picture.events.len() - 1
        });
        picture.events.push(simple(who, Operation::Commit));
        for (place, event) in picture.events[at..].iter_mut().enumerate() {
            event.at_ns = Some((who * 1_370 + place * 410) as u64);
        }
        let kind = EdgeKind::ALL[who % 7];
        let key = first_at.map(|_| bytes(&format!("k{who}")));
        picture.edges.push(Edge {
            key,
            from_event: first_at,
            ..Edge::new(who, (who + 1) % length, kind)
        });
        places.push(second_at);
    }
    for (who, edge) in picture.edges.iter_mut().enumerate() {
        edge.to_event = places[(who + 1) % length];
    }
    picture.cycle = (0..length).collect();
    picture
}

/// Names, keys and values by somebody who means harm.
pub fn hostile() -> Picture {
    let attacks = [
        "</script><img src=x onerror=alert(1)>",
        "\"><svg onload=alert(1)>",
        "' onmouseover='alert(1)",
        "</style></title><script>document.title='attacked'</script>",
        "-->]]><!--",
        "\u{1b}[2J\u{202e}&lt;&#60;&amp;",
        "*/ } /* \\\n fn main() {} //",
        "{{}} ${x} `x` \r\n",
    ];
    let mut picture = write_skew();
    for (place, event) in picture.events.iter_mut().enumerate() {
        let attack = bytes(attacks[place % attacks.len()]);
        let key_of = |key: &mut Vec<u8>| key.extend(&attack);
        match &mut event.operation {
            Operation::Read { key, .. } => key_of(key),
            Operation::Write { key, value } => {
                key_of(key);
                value.extend(&attack);
            }
            _ => {}
        }
        if let Outcome::Value(Some(value)) = &mut event.outcome {
            value.extend([&attack[..], &[0xff, 0, 0x80]].concat());
        }
    }
    picture.initial.push((bytes(attacks[0]), vec![0xff, 0xfe, 0]));
    picture.anomaly.name = attacks[1].into();
    picture.anomaly.title = attacks[3].into();
    picture.anomaly.definition = attacks[0].into();
    picture.anomaly.source = attacks[4].into();
    picture.anomaly.forbidden_by = attacks.map(String::from).to_vec();
    picture.verdict = Verdict::Forbidden(attacks[5].into());
    picture.remarks = attacks.map(String::from).to_vec();
    picture.replay = attacks.map(String::from).to_vec();
    for (place, lane) in picture.lanes.iter_mut().enumerate() {
        lane.name = attacks[place].into();
    }
    for (place, one) in picture.transactions.iter_mut().enumerate() {
        one.name = attacks[place + 2].into();
        one.isolation = attacks[place].into();
        one.concurrency = attacks[place + 1].into();
        one.place = attacks[place + 3].into();
    }
    picture.edges[0].why = attacks[0].into();
    picture.edges[1].key = Some(bytes(attacks[1]));
    picture
}

/// Nothing at all.
pub fn empty() -> Picture {
    Picture::default()
}

/// A read of what nobody committed: no cycle, but an edge and a remark.
pub fn aborted_read() -> Picture {
    let mut picture = write_skew();
    picture.anomaly = Anomaly {
        name: "G1a".into(),
        title: "aborted read".into(),
        definition: "A transaction that commits has read what another wrote and never committed."
            .into(),
        source: "Adya, Weak Consistency, 1999, G1a".into(),
        forbidden_by: vec!["read-committed".into()],
    };
    let begin = |who| simple(who, Operation::Begin);
    picture.events = vec![begin(0), write(0, "x", "2"), begin(1), read(1, "x", "2")];
    picture.events.push(simple(0, Operation::Rollback));
    picture.events.push(simple(1, Operation::Commit));
    picture.transactions[0].end = End::RolledBack;
    picture.verdict = Verdict::Forbidden("read-committed".into());
    picture.edges = vec![Edge {
        from_event: Some(1),
        to_event: Some(3),
        ..Edge::new(0, 1, EdgeKind::WriteRead)
    }];
    picture.cycle = Vec::new();
    picture.remarks = vec!["T2 read x = 2, which T1 wrote and rolled back.".into()];
    picture
}

/// Each operation that the engine has, with keys and values that are not text.
pub fn every_operation() -> Picture {
    let some = |text: &str| Some(bytes(text));
    let step = |operation| simple(0, operation);
    let odd = b"\"odd\"\x00\xff'\\".to_vec();
    let scan = |lower, upper| Operation::Scan { predicate: String::new(), lower, upper };
    let lock = |who, exclusive, outcome| {
        let (lower, upper) = (some("l"), some("m\0"));
        Event::new(who, Operation::LockRange { lower, upper, exclusive }, outcome)
    };
    let holders = Outcome::Refused { why: Refusal::LockRefused, by: vec![0], said: String::new() };
    let add =
        |key| Operation::Merge { key: bytes(key), operator: "add-i64".into(), operand: bytes("5") };
    let mut events = vec![
        step(Operation::Begin),
        step(Operation::Write { key: odd.clone(), value: odd.clone() }),
        step(Operation::Savepoint(0)),
        step(Operation::Delete { key: odd.clone() }),
        step(Operation::RollbackTo(0)),
        step(Operation::WriteUntil { key: bytes("z"), value: bytes("3"), until: 5 }),
        step(Operation::Write { key: bytes("other/k"), value: bytes("4") }),
        step(Operation::Pass(7)),
        read(0, "z", "3"),
        simple(3, Operation::Begin),
        simple(3, Operation::DropKeyspace("gone".into())),
        Event::new(
            0,
            Operation::Read { key: odd.clone(), intent: Intent::Share },
            Outcome::Value(Some(odd)),
        ),
        step(add("n")),
        read(0, "n", "7"),
        Event::new(
            0,
            scan(some("k"), some("n")),
            Outcome::Pairs(vec![(bytes("k1"), bytes("1")), (bytes("k2"), bytes("2"))]),
        ),
        step(Operation::DeleteRange { lower: some("k"), upper: some("k9") }),
        Event::new(0, scan(some("k"), some("n")), Outcome::Pairs(Vec::new())),
        lock(0, true, Outcome::Done),
        simple(1, Operation::Begin),
        lock(1, false, holders),
        Event::new(0, scan(None, some("a")), Outcome::Done),
        simple(2, Operation::Begin),
        read(2, "nobody", ""),
        simple(2, Operation::Rollback),
    ];
    events.extend(commit(0));
    let mut picture = write_skew();
    picture.anomaly = Anomaly { title: "every operation".into(), ..Anomaly::default() };
    picture.verdict = Verdict::Prevented("nothing of it is an anomaly".into());
    picture.lanes = lanes(4);
    picture.transactions = vec![
        transaction(0, "serializable", "optimistic", End::Committed(None)),
        transaction(1, "repeatable-read", "locking:no-wait", End::Aborted),
        transaction(2, "read-committed", "auto", End::RolledBack),
        transaction(3, "serializable", "optimistic", End::Committed(None)),
    ];
    picture.keyspaces = vec!["gone".into(), "other".into()];
    picture.expiring = vec![(bytes("n"), 9)];
    picture.initial =
        [("k1", "1"), ("k2", "2"), ("n", "2")].map(|(k, v)| (bytes(k), bytes(v))).to_vec();
    picture.hot = vec![bytes("nobody")];
    picture.events = events;
    (picture.edges, picture.cycle, picture.remarks) = Default::default();
    picture.replay = Vec::new();
    picture
}

/// Each of them, with a name for a file.
pub fn all() -> Vec<(&'static str, Picture)> {
    vec![
        ("write-skew", write_skew()),
        ("wounded", wounded()),
        ("aborted-read", aborted_read()),
        ("cycle-of-3", cycle(3)),
        ("cycle-of-12", cycle(12)),
        ("cycle-of-200", cycle(200)),
        ("every-operation", every_operation()),
        ("hostile", hostile()),
        ("empty", empty()),
    ]
}
