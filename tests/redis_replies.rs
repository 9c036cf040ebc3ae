//! Redis 7 itself (Debian's `redis-server`) as the oracle of our replies: the same random commands to both,
//! in both protocols, and the same bytes from both. Where it is not installed the tests say so and pass.

use isolith_testkit::redis::Redis;
use isolith_testkit::server::{REPLY_WAIT, Server, encode};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

/// A connection whose replies are taken as bytes.
struct Raw(TcpStream);

impl Raw {
    fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).expect("it accepts connections");
        stream.set_read_timeout(Some(REPLY_WAIT)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Raw(stream)
    }

    /// Everything that is said before the answer to an ECHO behind the command.
    fn say(&mut self, command: &[Vec<u8>]) -> Vec<u8> {
        const END: &[u8] = b"$14\r\nend of a reply\r\n";
        let mut bytes = encode(command);
        bytes.extend(encode(&["ECHO", "end of a reply"]));
        self.0.write_all(&bytes).expect("it takes what is sent");
        let (mut got, mut chunk) = (Vec::new(), vec![0; 65_536]);
        while !got.ends_with(END) {
            let read = self.0.read(&mut chunk).expect("a reply");
            assert!(read > 0, "it closed the connection, having said {}", got.escape_ascii());
            got.extend_from_slice(&chunk[..read]);
        }
        got.truncate(got.len() - END.len());
        got
    }

    fn line(&mut self, line: &str) -> Vec<u8> {
        self.say(&words(line))
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    let word = |word: &str| if word == "\"\"" { Vec::new() } else { word.as_bytes().to_vec() };
    line.split_whitespace().map(word).collect()
}

/// A random number generator whose runs can be repeated.
struct Random(u64);

impl Random {
    /// Seeded with ISOLITH_SEED, if that is set.
    fn seeded() -> Random {
        let seed = std::env::var("ISOLITH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(0x5eed);
        eprintln!("ISOLITH_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*: any sequence will do.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// One of the words of a line.
    fn word<'a>(&mut self, line: &'a str) -> &'a str {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.pick(&words)
    }

    fn number(&mut self) -> String {
        match self.below(4) {
            0 => self.word("0 1 -1 7 8 9 15 16 -8 100 -100 x 4294967296 \"\"").to_owned(),
            1 => self
                .word("9223372036854775807 -9223372036854775808 9223372036854775808 1e3 007 -0")
                .to_owned(),
            _ => (self.below(80) as i64 - 20).to_string(),
        }
    }

    fn float(&mut self) -> String {
        match self.below(6) {
            0 => self
                .word(
                    "3.0e3 1e-7 -1e-18 1e19 -0 1e4931 1e5000 .5 5. abc 1..2 0.1 1e 1e+4 \
                     inf -INF +Infinity infinit nan -NaN",
                )
                .into(),
            1 => format!("{}.{}", self.below(2_000_000) as i64 - 1_000_000, self.below(u64::MAX)),
            2 => format!("{}e{}", self.below(1 << 31), self.below(60) as i64 - 30),
            3 => format!("-0.{}{}", self.below(1 << 31), self.below(1 << 31)),
            4 => {
                format!("{}{}{}", self.below(1 << 31) + 1, self.below(1 << 31), self.below(1 << 31))
            }
            _ => format!("{}.{}", self.below(100), self.below(1000)),
        }
    }

    fn field(&mut self) -> String {
        let sign = self.word("i u i u i u x");
        let bits = self.pick(&["1", "2", "8", "16", "31", "63", "64", "65", "0", "5", "13"]);
        let hash = self.pick(&["", "", "#"]);
        let offset = match self.below(10) {
            0 => self.word("-1 x 4294967296 1000").to_owned(),
            _ => self.below(100).to_string(),
        };
        format!("{sign}{bits} {hash}{offset}")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 2, 3, 8, 9, 40, 300][self.below(8) as usize];
        let kinds: [u64; 4] = [2, 256, 3, 1];
        let kind = kinds[self.below(4) as usize];
        let shade = if self.below(2) == 0 { 0 } else { 0xff };
        (0..length).map(|_| self.below(kind) as u8 ^ shade).collect()
    }
}

/// A command whose reply depends on nothing but the commands before it.
fn command(random: &mut Random) -> Vec<Vec<u8>> {
    let (key, other) = (random.word("a b c d"), random.word("a b c d none"));
    let (one, two) = (random.number(), random.number());
    let unit = random.pick(&["", "", "BIT", "BYTE", "nope"]);
    let line = match random.below(32) {
        0..=4 => {
            let mut words = words(&format!("SET {key}"));
            words.push(random.bytes());
            return words;
        }
        5 => format!("SET {key} {one}"),
        6 | 7 => format!("SET {key} {}", random.float()),
        8 | 9 => format!("INCRBYFLOAT {key} {}", random.float()),
        10 => format!("SETBIT {key} {one} {}", random.word("0 1 0 1 0 1 2 x")),
        11 => format!("GETBIT {key} {one}"),
        12 => format!("BITCOUNT {key} {one} {two} {unit}"),
        13 => format!("BITCOUNT {key} {}", random.pick(&["", "", "1"])),
        14 => format!("BITPOS {key} {} {one} {two} {unit}", random.word("0 1 0 1 0 1 2 x")),
        15 => format!("BITPOS {key} {} {}", random.word("0 1"), random.pick(&["", "2", "-1"])),
        16 => format!("BITOP {} {key} {other} {key}", random.word("AND OR XOR NOT nope")),
        17 => format!("BITOP {} {key} {other} b c", random.word("and or xor")),
        18 => format!("BITOP NOT {key} {other}"),
        19 => format!("BITFIELD {key} GET {} GET {}", random.field(), random.field()),
        20 | 21 => format!(
            "BITFIELD {key} OVERFLOW {} {} {} {one} INCRBY {} {two}",
            random.word("WRAP SAT FAIL wrap nope"),
            random.word("SET INCRBY set GET"),
            random.field(),
            random.field(),
        ),
        22 => format!("BITFIELD_RO {key} {} {}", random.word("GET SET"), random.field()),
        23 => format!("BITFIELD {key} SET {} {one} OVERFLOW FAIL", random.field()),
        24 => format!("LCS {key} {other} {}", random.pick(&["", "LEN", "IDX", "IDX LEN", "nope"])),
        25 => format!(
            "LCS {key} {other} IDX MINMATCHLEN {one} {}",
            random.pick(&["WITHMATCHLEN", ""])
        ),
        26 => format!(
            "COPY {key} {other} {}",
            random.pick(&["", "REPLACE", "DB 1", "DB 16", "DB x", "DB 1 REPLACE", "nope", "DB"])
        ),
        27 => format!("MOVE {key} {}", random.word("0 1 2 16 x")),
        28 => format!("SUBSTR {key} {one} {two}"),
        29 => format!("{} {key}", random.word("GET DEL EXISTS OBJECT SORT_RO SORT GETDEL")),
        30 => {
            let (name, what) =
                (random.word("SORT SORT_RO"), random.pick(&["", "LIMIT 0 1", "DESC"]));
            format!(
                "{name} {other} {what} {}",
                random.pick(&["", "STORE d", "BY w_* GET #", "nope"])
            )
        }
        _ => format!("OBJECT {} {other}", random.word("ENCODING REFCOUNT nope ENCODING")),
    };
    words(&line)
}

#[test]
fn strings_and_bits_are_those_of_redis() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(BINARY, &["--durability", "buffered"]);
    let mut random = Random::seeded();
    for protocol in ["HELLO 2", "HELLO 3"] {
        let (mut ours, mut theirs) =
            (Raw::connect(server.address()), Raw::connect(redis.address()));
        for raw in [&mut ours, &mut theirs] {
            raw.line(protocol);
            raw.line("FLUSHALL");
        }
        let mut history = Vec::new();
        for _ in 0..15_000 {
            let mut command = command(&mut random);
            let told = |command: &[Vec<u8>]| {
                let words =
                    command.iter().map(|word| format!("{:?}", word.escape_ascii().to_string()));
                words.collect::<Vec<_>>().join(" ")
            };
            // What a value's history has to do with it, we do not know: docs/commands.md says so. An
            // integer of Redis's own is shared, too.
            if command[0] == b"OBJECT" && command.len() == 3 {
                let key = command[2].clone();
                let value = ours.say(&[b"GET".to_vec(), key.clone()]);
                if value.len() > 1 && value[1] != b'-' && command[1] != b"nope" {
                    let fresh = vec![b"SET".to_vec(), key, b"a value of medium length".to_vec()];
                    assert_eq!(ours.say(&fresh), theirs.say(&fresh));
                    if value.len() % 2 == 0 {
                        command[1] = b"ENCODING".to_vec();
                    }
                }
            }
            let (got, expected) = (ours.say(&command), theirs.say(&command));
            history.push(format!("{} => {}", told(&command), expected.escape_ascii()));
            let recent = &history[history.len().saturating_sub(30)..];
            assert!(
                got == expected,
                "{protocol}: we said {}, after\n{}",
                got.escape_ascii(),
                recent.join("\n")
            );
        }
    }
}

#[test]
fn dumps_are_exchangeable_with_redis() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(BINARY, &["--durability", "buffered"]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let mut random = Random::seeded();
    let mut values: Vec<Vec<u8>> = [0u64, 1, 63, 64, 65, 16_383, 16_384, 100_000]
        .iter()
        .flat_map(|length| {
            let noise: Vec<u8> = (0..*length).map(|_| random.below(256) as u8).collect();
            let words: Vec<u8> =
                (0..*length).map(|at| b"lots of words "[at as usize % 14]).collect();
            let steps: Vec<u8> = (0..*length).map(|_| b"abc"[random.below(3) as usize]).collect();
            [noise, words, steps]
        })
        .collect();
    for number in ["0", "-1", "127", "-128", "128", "32767", "-32769", "2147483647", "-2147483648"]
    {
        values.push(number.into());
    }
    for number in ["2147483648", "-2147483649", "007", "-0", "9223372036854775807"] {
        values.push(number.into());
    }
    for value in values {
        let (from, to) = (&mut ours, &mut theirs);
        let key = b"key".to_vec();
        let ok = |reply: isolith_testkit::server::Value| assert_eq!(reply.to_string(), "+OK");
        let restored = |payload: &[u8]| -> Vec<Vec<u8>> {
            let fixed: [&[u8]; 5] = [b"RESTORE", b"key", b"0", payload, b"REPLACE"];
            fixed.map(<[u8]>::to_vec).to_vec()
        };
        ok(from.command(&[b"SET".to_vec(), key.clone(), value.clone()]));
        ok(to.command(&[b"SET".to_vec(), key.clone(), b"other".to_vec()]));
        let payload = from.line("DUMP key");
        ok(to.command(&restored(payload.bytes().expect("a payload"))));
        assert_eq!(to.line("GET key").bytes(), Some(&value[..]));
        ok(from.line("SET key other"));
        let payload = to.line("DUMP key");
        ok(from.command(&restored(payload.bytes().expect("a payload"))));
        assert_eq!(from.line("GET key").bytes(), Some(&value[..]));
    }
}
