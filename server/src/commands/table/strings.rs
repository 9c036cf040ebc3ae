//! Strings: their part of the table. Order here is order in the reference.

use super::{ALL_KEYS, EVERY_OTHER, ONE_KEY, TWO_KEYS};
use crate::commands::{Group, Handler, Spec, sequence, strings};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Group::String, "append", 3, ONE_KEY, "2.0.0")
        .syntax("APPEND key value")
        .does("Puts the value behind the one that is there; gives the new length.")
        .runs(Handler::Write(strings::append))
        .fast()
        .marked(&["blind"]),
    Spec::new(Group::String, "decr", 2, ONE_KEY, "1.0.0")
        .syntax("DECR key")
        .does("Takes one from an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::decr))
        .fast(),
    Spec::new(Group::String, "decrby", 3, ONE_KEY, "1.0.0")
        .syntax("DECRBY key decrement")
        .does("Takes a number from an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::decrby))
        .fast(),
    Spec::new(Group::String, "get", 2, ONE_KEY, "1.0.0")
        .syntax("GET key")
        .does("Gives the value, or null.")
        .runs(Handler::Read(strings::get))
        .fast(),
    Spec::new(Group::String, "getdel", 2, ONE_KEY, "6.2.0")
        .syntax("GETDEL key")
        .does("Gives the value and deletes the key.")
        .runs(Handler::Write(strings::getdel))
        .fast(),
    Spec::new(Group::String, "getex", -2, ONE_KEY, "6.2.0")
        .syntax(
            "GETEX key [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT \
            unix-milliseconds | PERSIST]",
        )
        .does("Gives the value and changes when it expires.")
        .runs(Handler::Write(strings::getex))
        .fast(),
    Spec::new(Group::String, "getrange", 4, ONE_KEY, "2.4.0")
        .syntax("GETRANGE key start end")
        .does(
            "Gives a part of the value, both ends included; negative places count from \
            its end.",
        )
        .runs(Handler::Read(strings::getrange)),
    Spec::new(Group::String, "getset", 3, ONE_KEY, "1.0.0")
        .syntax("GETSET key value")
        .does("Sets the value and gives the one before.")
        .runs(Handler::Write(strings::getset))
        .fast(),
    Spec::new(Group::String, "incr", 2, ONE_KEY, "1.0.0")
        .syntax("INCR key")
        .does("Adds one to an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::incr))
        .fast(),
    Spec::new(Group::String, "incrby", 3, ONE_KEY, "1.0.0")
        .syntax("INCRBY key increment")
        .does("Adds a number to an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::incrby))
        .fast(),
    Spec::new(Group::String, "incrbyfloat", 3, ONE_KEY, "2.6.0")
        .syntax("INCRBYFLOAT key increment")
        .does("Adds a number with places to a value (0 if it is not there); gives the result.")
        .note("Reckoned as Redis on x86-64 does, with 64 bits of mantissa, on every processor. Hexadecimal numbers are none.")
        .runs(Handler::Write(strings::incrbyfloat))
        .fast(),
    Spec::new(Group::String, "lcs", -3, TWO_KEYS, "7.0.0")
        .syntax("LCS key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]")
        .does("Gives the longest common subsequence of two strings, its length (LEN), or where it is in both (IDX).")
        .note("Refused where the table would take more than 128 MiB (Redis: 512): four bytes times both lengths.")
        .runs(Handler::Read(sequence::lcs)),
    Spec::new(Group::String, "mget", -2, ALL_KEYS, "1.0.0")
        .syntax("MGET key [key ...]")
        .does("Gives the values of several keys as of one moment.")
        .runs(Handler::Read(strings::mget))
        .fast(),
    Spec::new(Group::String, "mset", -3, EVERY_OTHER, "1.0.1")
        .syntax("MSET key value [key value ...]")
        .does("Sets several keys at one moment.")
        .runs(Handler::Write(strings::mset))
        .marked(&["blind"]),
    Spec::new(Group::String, "msetnx", -3, EVERY_OTHER, "1.0.1")
        .syntax("MSETNX key value [key value ...]")
        .does("Sets several keys if none of them is there.")
        .runs(Handler::Write(strings::msetnx))
        .marked(&["blind"]),
    Spec::new(Group::String, "psetex", 4, ONE_KEY, "2.6.0")
        .syntax("PSETEX key milliseconds value")
        .does("Sets a value that expires.")
        .runs(Handler::Write(strings::psetex))
        .marked(&["blind"]),
    Spec::new(Group::String, "set", -3, ONE_KEY, "1.0.0")
        .syntax(
            "SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT \
            unix-seconds | PXAT unix-milliseconds | KEEPTTL]",
        )
        .does(
            "Sets the value: only if it is not there (NX) or only if it is (XX), giving \
            the one before (GET), with an expiry or keeping the one it has.",
        )
        .runs(Handler::Write(strings::set))
        .marked(&["blind"]),
    Spec::new(Group::String, "setex", 4, ONE_KEY, "2.0.0")
        .syntax("SETEX key seconds value")
        .does("Sets a value that expires.")
        .runs(Handler::Write(strings::setex))
        .marked(&["blind"]),
    Spec::new(Group::String, "setnx", 3, ONE_KEY, "1.0.0")
        .syntax("SETNX key value")
        .does("Sets the value if it is not there.")
        .runs(Handler::Write(strings::setnx))
        .fast()
        .marked(&["blind"]),
    Spec::new(Group::String, "setrange", 4, ONE_KEY, "2.2.0")
        .syntax("SETRANGE key offset value")
        .does(
            "Overwrites a part of the value, filling up with zero bytes; gives the \
            length.",
        )
        .runs(Handler::Write(strings::setrange))
        .marked(&["blind"]),
    Spec::new(Group::String, "strlen", 2, ONE_KEY, "2.2.0")
        .syntax("STRLEN key")
        .does("Gives the length of the value.")
        .runs(Handler::Read(strings::strlen))
        .fast(),
    Spec::new(Group::String, "substr", 4, ONE_KEY, "1.0.0")
        .syntax("SUBSTR key start end")
        .does("As GETRANGE.")
        .runs(Handler::Read(strings::getrange)),
];
