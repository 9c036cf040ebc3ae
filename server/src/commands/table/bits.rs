//! Bits: their part of the table. Order here is order in the reference.

use super::{BEHIND_TWO, ONE_KEY};
use crate::commands::{Group, Handler, Spec, bits};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Group::Bitmap, "bitcount", -2, ONE_KEY, "2.6.0")
        .syntax("BITCOUNT key [start end [BYTE | BIT]]")
        .does("Counts the bits that are set.")
        .runs(Handler::Read(bits::bitcount)),
    Spec::new(Group::Bitmap, "bitfield", -2, ONE_KEY, "3.2.0")
        .syntax("BITFIELD key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] SET type offset value | INCRBY type offset increment ...]")
        .does("Reads and changes integers of any width within a value.")
        .runs(Handler::Write(bits::bitfield)),
    Spec::new(Group::Bitmap, "bitfield_ro", -2, ONE_KEY, "6.0.0")
        .syntax("BITFIELD_RO key [GET type offset ...]")
        .does("Reads integers of any width within a value.")
        .runs(Handler::Read(bits::bitfield_ro))
        .fast(),
    Spec::new(Group::Bitmap, "bitop", -4, BEHIND_TWO, "2.6.0")
        .syntax("BITOP AND | OR | XOR | NOT destkey key [key ...]")
        .does("Joins values bit by bit into another; gives its length.")
        .runs(Handler::Write(bits::bitop)),
    Spec::new(Group::Bitmap, "bitpos", -3, ONE_KEY, "2.8.7")
        .syntax("BITPOS key bit [start [end [BYTE | BIT]]]")
        .does("Gives the place of the first bit that is set, or not.")
        .runs(Handler::Read(bits::bitpos)),
    Spec::new(Group::Bitmap, "getbit", 3, ONE_KEY, "2.2.0")
        .syntax("GETBIT key offset")
        .does("Gives a bit.")
        .runs(Handler::Read(bits::getbit))
        .fast(),
    Spec::new(Group::Bitmap, "setbit", 4, ONE_KEY, "2.2.0")
        .syntax("SETBIT key offset value")
        .does("Sets or clears a bit, filling up with zero bytes; gives the one before.")
        .runs(Handler::Write(bits::setbit)),
];
