//! The examples about transactions, each for a moment in every mode: their invariants hold under load, and
//! what they show of weaker levels is so.

#![expect(clippy::duplicate_mod, reason = "each example brings what they share along")]

use std::time::Duration;

/// Long enough for some hundreds of transactions.
const MOMENT: Duration = Duration::from_millis(25);

macro_rules! example {
    ($name:ident, $path:literal, $claim:ident) => {
        #[path = $path]
        #[expect(dead_code, reason = "an example's own way in, from the command line")]
        mod $name;

        #[test]
        fn $claim() {
            let modes = $name::common::every_mode(&$name::LEVELS);
            $name::show(modes, MOMENT).unwrap();
        }
    };
}

example!(bank, "../engine/examples/bank.rs", transfers_keep_the_sum);
example!(queue, "../engine/examples/queue.rs", an_item_is_handed_out_once_and_in_order);
example!(unique_index, "../engine/examples/unique_index.rs", an_address_has_one_user);
example!(inventory, "../engine/examples/inventory.rs", no_more_is_sold_than_there_is);
