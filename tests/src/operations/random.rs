//! Random operations: how likely each is, and how proptest shrinks it.

use isolith::{Durability, Isolation};
use proptest::prelude::*;

use crate::model::End;

use super::{Action, EDGES, Look, NAMES, Operation, SLOTS, Span, Value, Walk, key};

fn key_number() -> impl Strategy<Value = u8> {
    prop_oneof![5 => 0..EDGES.len() as u8, 1 => 0..=160u8]
}

fn space() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(0), 2 => Just(1), 1 => 2..6u8]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => Just(Value::Same),
        1 => Just(Value::Empty),
        6 => prop_oneof![Just(1), Just(21), Just(22), Just(23), Just(31), Just(100)]
            .prop_map(Value::Unique),
        1 => prop_oneof![Just(1023), Just(1024), Just(1025), Just(5000)].prop_map(Value::Unique),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![3 => Just(End::Back), 1 => Just(End::Front)]
}

fn lives() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![4 => Just(None), 1 => (0..40u8).prop_map(Some)]
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Sync), Just(Durability::Os), Just(Durability::Buffered)]
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![
        2 => Just(Span::All),
        4 => (key_number(), any::<bool>(), key_number(), any::<bool>())
            .prop_map(|(lower, with_lower, upper, with_upper)| {
                // Mostly the right way round.
                let turned = key(lower) > key(upper) && (lower ^ upper) % 4 != 0;
                let (lower, upper) = if turned { (upper, lower) } else { (lower, upper) };
                Span::Between(lower, with_lower, upper, with_upper)
            }),
        1 => key_number().prop_map(Span::From),
        1 => key_number().prop_map(Span::Below),
        2 => (key_number(), 0..10u8).prop_map(|(number, length)| Span::Prefix(number, length)),
    ]
}

fn walk() -> impl Strategy<Value = Walk> {
    let rest = prop_oneof![2 => Just(None), 2 => Just(Some(false)), 1 => Just(Some(true))];
    let backs = prop_oneof![
        3 => prop::collection::vec(Just(false), 0..4),
        2 => prop::collection::vec(Just(true), 0..4),
        2 => prop::collection::vec(any::<bool>(), 0..12),
    ];
    (backs, rest).prop_map(|(backs, rest)| {
        let rest = rest.or(backs.is_empty().then_some(false));
        Walk { backs, rest }
    })
}

fn look() -> impl Strategy<Value = Look> {
    prop_oneof![
        3 => (space(), key_number()).prop_map(|(space, key)| Look::Get(space, key)),
        2 => (space(), span(), walk()).prop_map(|(space, span, walk)| Look::Scan(space, span, walk)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => look().prop_map(Action::Look),
        2 => (space(), key_number()).prop_map(|(space, key)| Action::ForUpdate(space, key)),
        6 => (space(), key_number(), value(), lives())
            .prop_map(|(space, key, value, lives)| Action::Put(space, key, value, lives)),
        2 => (space(), key_number()).prop_map(|(space, key)| Action::Delete(space, key)),
        3 => (space(), span()).prop_map(|(space, span)| Action::DeleteRange(space, span)),
        3 => (space(), key_number(), value(), end())
            .prop_map(|(space, key, value, end)| Action::Append(space, key, value, end)),
        3 => Just(Action::Savepoint),
        3 => any::<u8>().prop_map(Action::RollbackTo),
    ]
}

/// One operation.
pub fn operation() -> impl Strategy<Value = Operation> {
    // Mostly the first, so that transactions grow.
    let slot = prop_oneof![4 => Just(0), 2 => Just(1), 1 => 0..SLOTS as u8].boxed();
    let isolation = prop_oneof![
        2 => Just(Isolation::Serializable),
        1 => Just(Isolation::Snapshot),
    ];
    let read_only = prop_oneof![5 => Just(false), 1 => Just(true)];
    prop_oneof![
        2 => (0..NAMES.len() as u8).prop_map(Operation::Open),
        1 => (0..NAMES.len() as u8).prop_map(Operation::Drop),
        8 => look().prop_map(Operation::Look),
        10 => (space(), key_number(), value(), lives(), durability()).prop_map(
            |(space, key, value, lives, durability)| {
                Operation::Put(space, key, value, lives, durability)
            }
        ),
        1 => (space(), key_number(), 1..80u8)
            .prop_map(|(space, key, times)| Operation::Churn(space, key, times)),
        4 => (space(), key_number()).prop_map(|(space, key)| Operation::Delete(space, key)),
        3 => (space(), span()).prop_map(|(space, span)| Operation::DeleteRange(space, span)),
        3 => (space(), key_number(), value(), prop_oneof![4 => Just(1), 1 => 1..50u8], end())
            .prop_map(|(space, key, value, times, end)| {
                Operation::Append(space, key, value, times, end)
            }),
        2 => (space(), key_number(), any::<bool>(), prop::option::of(value())).prop_map(
            |(space, key, matching, new)| Operation::Swap(space, key, matching, new)
        ),
        8 => (slot.clone(), isolation, read_only, durability()).prop_map(
            |(slot, isolation, read_only, durability)| {
                Operation::Begin(slot, isolation, read_only, durability)
            }
        ),
        30 => (slot.clone(), action()).prop_map(|(slot, action)| Operation::In(slot, action)),
        8 => (slot.clone(), any::<bool>())
            .prop_map(|(slot, pending)| Operation::Commit(slot, pending)),
        1 => slot.prop_map(Operation::Rollback),
        1 => any::<u8>().prop_map(Operation::Await),
        3 => any::<bool>().prop_map(Operation::Snapshot),
        3 => prop_oneof![3 => 0..8u8, 2 => 0..80u8].prop_map(Operation::SnapshotAt),
        6 => (any::<u8>(), look()).prop_map(|(place, look)| Operation::Through(place, look)),
        1 => any::<u8>().prop_map(Operation::Forget),
        2 => (0..30u8).prop_map(Operation::Advance),
        1 => Just(Operation::Sync),
        2 => Just(Operation::Flush),
        1 => Just(Operation::Compact),
        1 => any::<bool>().prop_map(Operation::Reopen),
    ]
}
