//! Both formats there and back; what is cut, damaged or malformed is found.

use super::*;

type Pair = (&'static str, Vec<u8>, Vec<u8>, Option<u64>);

fn pairs() -> Vec<Pair> {
    let mut pairs = vec![
        ("a", b"key".to_vec(), b"va\"lue\n".to_vec(), Some(1_700_000_000_000)),
        ("a", vec![0xff, 0], Vec::new(), None),
        ("b", Vec::new(), (0..=255).collect(), None),
    ];
    pairs.extend((0..20).map(|at| ("b", vec![b'z', at], vec![at; 9_000], None)));
    pairs
}

fn dumped(format: DumpFormat) -> Vec<u8> {
    let names = ["a", "b", "empty"].map(str::to_owned);
    let mut writer = Writer::begin(Vec::new(), format, &names).expect("begun");
    for (keyspace, key, value, expires_at) in pairs() {
        writer.pair(keyspace, &key, &value, expires_at).expect("written");
    }
    writer.end(pairs().len() as u64).expect("ended")
}

fn read(bytes: &[u8]) -> Result<Vec<Item>, ReadError> {
    let mut reader = Reader::begin(bytes)?;
    std::iter::from_fn(|| reader.next().transpose()).collect()
}

#[test]
fn what_is_dumped_is_read_back_in_both_formats() {
    for format in [DumpFormat::Jsonl, DumpFormat::Binary] {
        let items = read(&dumped(format)).expect("a dump");
        let (mut names, mut found) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Keyspace(name) => names.push(name),
                Item::Pair { keyspace, key, value, expires_at } => {
                    found.push((keyspace, key, value, expires_at));
                }
            }
        }
        for name in ["a", "b", "empty"] {
            assert!(names.iter().any(|known| known == name), "{format:?}: {names:?}");
        }
        let found: Vec<_> = found
            .iter()
            .map(|(k, key, value, at)| (&**k, key.clone(), value.clone(), *at))
            .collect();
        assert_eq!(found, pairs(), "{format:?}");
    }
}

#[test]
fn a_dump_that_is_cut_anywhere_is_malformed() {
    for format in [DumpFormat::Jsonl, DumpFormat::Binary] {
        let dump = dumped(format);
        let last = dump.len() - 1;
        for cut in (1..dump.len()).filter(|cut| cut % 97 == 0 || *cut < 200 || *cut + 50 > last) {
            let found = read(&dump[..cut]);
            // A last line may end without its line feed.
            let whole = format == DumpFormat::Jsonl && cut == last;
            assert_eq!(found.is_ok(), whole, "{format:?}, {cut} of {}", dump.len());
        }
    }
}

#[test]
fn a_flipped_bit_in_a_binary_dump_is_found() {
    let dump = dumped(DumpFormat::Binary);
    for at in (0..dump.len()).filter(|at| *at < 300 || at % 501 == 0) {
        let mut damaged = dump.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(read(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn malformed_lines_are_named() {
    let good = r#"{"keyspace":"a","key":"k","value":"v"}"#;
    for (line, what) in [
        ("{", "it is no JSON"),
        ("[]", "it is no JSON object"),
        (r#"{"keyspace":"a","key":"k"}"#, "'value' is missing"),
        (r#"{"key":"a","value":"k"}"#, "'keyspace' is missing"),
        (r#"{"keyspace":"a","key":{"base64":"A"},"value":"k"}"#, "'key' is not in base64"),
        (r#"{"keyspace":"a","key":1,"value":"k"}"#, "'key' is neither a text nor"),
        (r#"{"keyspace":"a","key":"k","value":"v","expires_at":-1}"#, "'expires_at' is no number"),
        (r#"{"keyspace":"a","key":"k","value":"v","ttl":1}"#, "'ttl' is unknown"),
        (r#"{"end":true,"pairs":7}"#, "it has 1 pairs, and says that it has 7"),
        (r#"{"isolith":"dump","format":1,"keyspaces":[]}"#, "a dump begins in a place of its own"),
    ] {
        let Err(ReadError::Malformed { place, what: found }) =
            read(format!("{good}\n{line}\n").as_bytes())
        else {
            panic!("{line} is malformed");
        };
        assert_eq!(place, "line 2", "{line}");
        assert!(found.contains(what), "{line}: {found}");
    }
    assert_eq!(read(good.as_bytes()).expect("lines of others").len(), 1);
}

#[test]
fn base64_goes_there_and_back() {
    for length in 0..70u8 {
        let bytes: Vec<u8> = (0..length).map(|at| at.wrapping_mul(37)).collect();
        assert_eq!(decode(&encode(&bytes)), Some(bytes));
    }
    assert_eq!(encode(b"\x00\xff"), "AP8=");
    for wrong in ["A", "AP9=", "AP8", "====", "A=B=", "A P8"] {
        assert_eq!(decode(wrong), None, "{wrong}");
    }
}
