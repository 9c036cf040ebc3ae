//! Asks for what a cursor is going to look at, once it has gone through some blocks in a row, either way.
//!
//! The system reads ahead by itself where pages are missed in order on the way forward. It cannot know of a
//! scan backwards, nor where several files are gone through in turns.

use crate::sstable::format::Section;

/// So many blocks in a row, and it is a long scan.
const ROW_MIN: u32 = 4;
/// What is asked for at a time: what a fast device reads in a fraction of a millisecond.
const AHEAD_BYTES: u64 = 256 << 10;

/// Where a cursor goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ahead {
    /// The block that was entered last, and how many were in a row.
    block: u64,
    row: u32,
    /// Where what was asked for ends: in the file on the way forward, before it on the way back.
    asked: u64,
}

impl Ahead {
    /// A block is entered: gives the bytes to ask for, offset and length, if any.
    pub(super) fn enter(&mut self, block: u64, section: Section) -> Option<(u64, u64)> {
        let last = std::mem::replace(&mut self.block, block);
        let forward = block == last.wrapping_add(1);
        if !forward && block != last.wrapping_sub(1) {
            self.row = 0;
            return None;
        }
        let Section { offset, bytes } = section;
        let end = offset.saturating_add(bytes);
        self.row = self.row.saturating_add(1);
        if self.row < ROW_MIN {
            self.asked = if forward { end } else { offset };
            return None;
        }
        if forward {
            // Half of it is left: the next half is on its way before that is used up.
            if self.asked > end.saturating_add(AHEAD_BYTES / 2) {
                return None;
            }
            let from = self.asked.max(end);
            self.asked = from.saturating_add(AHEAD_BYTES);
            return Some((from, AHEAD_BYTES));
        }
        if self.asked.saturating_add(AHEAD_BYTES / 2) < offset {
            return None;
        }
        let to = self.asked.min(offset);
        self.asked = to.saturating_sub(AHEAD_BYTES);
        Some((self.asked, to - self.asked)).filter(|(_, bytes)| *bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 3000;

    fn asked(blocks: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
        let mut ahead = Ahead::default();
        let section = |block| Section { offset: 64 + block * BLOCK, bytes: BLOCK };
        blocks.filter_map(|block| ahead.enter(block, section(block))).collect()
    }

    #[test]
    fn a_long_scan_asks_for_everything_once_before_it_comes_there() {
        let there = asked(1000..2000);
        assert!(there[0].0 <= 64 + 1010 * BLOCK);
        assert!(there.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0), "{there:?}");
        assert!(there.last().is_some_and(|(offset, bytes)| offset + bytes > 64 + 2000 * BLOCK));
        let back = asked((0..1000).rev());
        assert!(back[0].0 + back[0].1 >= 64 + 990 * BLOCK);
        assert!(back.windows(2).all(|pair| pair[1].0 + pair[1].1 == pair[0].0), "{back:?}");
        assert_eq!(back.last().map(|(offset, _)| *offset), Some(0));
    }

    #[test]
    fn points_and_short_scans_ask_for_nothing() {
        assert_eq!(asked([7, 900, 3, 4, 5, 800, 801, 2].into_iter()), []);
    }
}
