//! Laws that merging and overriding keep for any tables.

use proptest::prelude::*;
use toml::{Table, Value};

use super::layers;

fn tables() -> impl Strategy<Value = Table> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from)
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[a-c]", inner, 0..3)
                .prop_map(|m| Value::Table(m.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[a-c]", value, 0..4).prop_map(|map| map.into_iter().collect())
}

fn merged(base: &Table, top: &Table) -> Table {
    let mut out = base.clone();
    layers::merge(&mut out, top);
    out
}

proptest! {
    #[test]
    fn merging_nothing_or_itself_changes_nothing(a in tables()) {
        prop_assert_eq!(&merged(&a, &Table::new()), &a);
        prop_assert_eq!(&merged(&Table::new(), &a), &a);
        prop_assert_eq!(&merged(&a, &a), &a);
    }

    #[test]
    fn the_top_layer_always_wins(a in tables(), b in tables()) {
        let once = merged(&a, &b);
        prop_assert_eq!(&merged(&once, &b), &once);
        prop_assert!(once.keys().all(|key| a.contains_key(key) || b.contains_key(key)));
        for (key, value) in &b {
            if !value.is_table() {
                prop_assert_eq!(&once[key], value);
            }
        }
    }

    #[test]
    fn an_override_reads_back_what_it_set(a in tables(), number in any::<i64>()) {
        let mut table = a.clone();
        if layers::apply_override(&mut table, &format!("a.b = {number}")).is_ok() {
            prop_assert_eq!(table["a"]["b"].as_integer(), Some(number));
        } else {
            prop_assert!(!a["a"].is_table());
            prop_assert_eq!(&table, &a);
        }
    }
}
