//! Glob patterns as KEYS and SCAN take them: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`, `\x`.
//!
//! Matching takes at most pattern × text steps: a star that fails is only ever resumed one byte
//! further, never inside an earlier star, so that `a*a*a*a*b` is no attack.

/// True if the whole of `text` matches `pattern`.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to resume: after the last star, one byte further in the text.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if let Some(next) = one(&pattern[p..], text[t]) {
            p += next;
            t += 1;
        } else if let Some((after, from)) = star {
            p = after;
            t = from + 1;
            star = Some((after, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The bytes that every match begins with.
pub(crate) fn literal_prefix(pattern: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::new();
    let mut bytes = pattern.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => break,
            b'\\' => match bytes.next() {
                Some(escaped) => prefix.push(escaped),
                None => {
                    prefix.push(b'\\');
                }
            },
            literal => prefix.push(literal),
        }
    }
    prefix
}

/// Matches one byte against the first element of `pattern`; returns the element's length.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [] | [b'*', ..] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (escaped == byte).then_some(2),
        [b'[', ref set @ ..] => {
            let (matched, length) = class(set, byte);
            matched.then_some(length + 1)
        }
        [literal, ..] => (literal == byte).then_some(1),
    }
}

/// Matches one byte against the set after a `[`. Returns the set's length with its `]`; a set that
/// is never closed ends with the pattern.
fn class(set: &[u8], byte: u8) -> (bool, usize) {
    let (negated, mut at) = if set.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
    let mut matched = false;
    loop {
        match set[at..] {
            [] => return (matched != negated, at),
            [b']', ..] => return (matched != negated, at + 1),
            [b'\\', escaped, ..] => {
                matched |= escaped == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                matched |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [single, ..] => {
                matched |= single == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_of_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("foo*", "foobar", true),
            ("*bar", "foobar", true),
            ("f?o", "foo", true),
            ("f?o", "fo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("[\\]]", "]", true),
            ("[a", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn stars_do_not_multiply() {
        let text = vec![b'a'; 5_000];
        assert!(!matches(
            &b"a*".repeat(500).iter().chain(b"b").copied().collect::<Vec<_>>(),
            &text
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_patterns_never_panic(pattern: Vec<u8>, text: Vec<u8>) {
            matches(&pattern, &text);
        }

        #[test]
        fn every_match_begins_with_the_prefix(
            pattern in "[ab*?\\[\\]\\\\-]{0,6}", text in "[ab\\[\\]*-]{0,6}",
        ) {
            if matches(pattern.as_bytes(), text.as_bytes()) {
                prop_assert!(text.as_bytes().starts_with(&literal_prefix(pattern.as_bytes())));
            }
        }
    }
}
