//! LCS: the longest common subsequence of two strings.

use super::strings::{integer, value_of};
use super::{Outcome, is};
use crate::failure::{Failure, syntax};
use crate::resp::{Args, Reply};
use crate::store::Cx;

/// The most that the table of one LCS may take. Redis lets it have a whole string's 512 MiB; here that would
/// hold up a core for seconds.
const TABLE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// What LCS is asked for.
#[derive(Default)]
struct Wanted {
    length: bool,
    matches: bool,
    with_lengths: bool,
    length_min: usize,
}

/// A run that both strings have.
struct Match {
    one: usize,
    other: usize,
    length: usize,
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]`
pub(super) fn lcs(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (one, other) = (cx.entry(args.at(1))?, cx.entry(args.at(2))?);
    let (one, other) = (value_of(&one).unwrap_or_default(), value_of(&other).unwrap_or_default());
    let wanted = parse(args)?;
    cx.spend((one.len() + 1).saturating_mul(other.len() + 1).saturating_mul(size_of::<u32>()))?;
    let table = Table::new(one, other)?;
    if wanted.length {
        reply.count(table.length(one.len(), other.len()));
        return Ok(());
    }
    let (text, matches) = table.walk();
    if !wanted.matches {
        reply.bulk(&text);
        return Ok(());
    }
    let matches: Vec<Match> =
        matches.into_iter().filter(|run| run.length >= wanted.length_min).collect();
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.len());
    for Match { one, other, length } in matches {
        reply.array(if wanted.with_lengths { 3 } else { 2 });
        for start in [one, other] {
            reply.array(2);
            reply.count(start);
            reply.count(start + length - 1);
        }
        if wanted.with_lengths {
            reply.count(length);
        }
    }
    reply.bulk(b"len");
    reply.count(text.len());
    Ok(())
}

fn parse(args: Args<'_>) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::default();
    let mut words = args.from(3);
    while let Some(word) = words.next() {
        match word {
            _ if is(word, "IDX") => wanted.matches = true,
            _ if is(word, "LEN") => wanted.length = true,
            _ if is(word, "WITHMATCHLEN") => wanted.with_lengths = true,
            _ if is(word, "MINMATCHLEN") => {
                let least = integer(words.next().ok_or_else(syntax)?)?;
                wanted.length_min = usize::try_from(least).unwrap_or(0);
            }
            _ => return Err(syntax()),
        }
    }
    if wanted.length && wanted.matches {
        return Err(Failure::text(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    Ok(wanted)
}

/// The lengths for all pairs of beginnings. Source: the textbook's dynamic programming, as Redis has it.
struct Table<'a> {
    one: &'a [u8],
    other: &'a [u8],
    lengths: Vec<u32>,
}

impl<'a> Table<'a> {
    fn new(one: &'a [u8], other: &'a [u8]) -> Result<Table<'a>, Failure> {
        let width = other.len() + 1;
        let cells = (one.len() + 1).saturating_mul(width);
        if cells.saturating_mul(size_of::<u32>()) > TABLE_BYTES_MAX {
            return Err(Failure::text(
                "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
            ));
        }
        let mut lengths = vec![0u32; cells];
        for (row, byte) in one.iter().enumerate() {
            let (above, below) = lengths.split_at_mut((row + 1) * width);
            let above = above.get(row * width..).unwrap_or_default();
            let mut left = 0;
            let cells = below.iter_mut().skip(1).zip(above.iter().zip(above.iter().skip(1)));
            for ((cell, (diagonal, up)), against) in cells.zip(other) {
                *cell = if byte == against { diagonal + 1 } else { left.max(*up) };
                left = *cell;
            }
        }
        Ok(Table { one, other, lengths })
    }

    fn length(&self, one: usize, other: usize) -> usize {
        let cell = self.lengths.get(one * (self.other.len() + 1) + other);
        cell.copied().unwrap_or(0) as usize
    }

    /// The subsequence, and the runs that it consists of, the last first.
    fn walk(&self) -> (Vec<u8>, Vec<Match>) {
        let (mut text, mut matches): (Vec<u8>, Vec<Match>) = (Vec::new(), Vec::new());
        let (mut i, mut j) = (self.one.len(), self.other.len());
        while i > 0 && j > 0 {
            if let Some(byte) = self.one.get(i - 1)
                && self.other.get(j - 1) == Some(byte)
            {
                text.push(*byte);
                (i, j) = (i - 1, j - 1);
                match matches.last_mut() {
                    Some(run) if (run.one, run.other) == (i + 1, j + 1) => {
                        *run = Match { one: i, other: j, length: run.length + 1 };
                    }
                    _ => matches.push(Match { one: i, other: j, length: 1 }),
                }
            } else if self.length(i - 1, j) > self.length(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        text.reverse();
        (text, matches)
    }
}
