use proptest::prelude::*;

use super::*;

fn elements() -> impl Strategy<Value = Elements> {
    let sets = prop_oneof![Just(SetName::from("one")), Just(SetName::from("other"))];
    let member = (0u16..6).prop_map(|port| Element::member(vec![Field::Port(port)]));
    prop::collection::btree_map(sets, prop::collection::btree_set(member, 1..6), 0..3)
}

proptest! {
    #[test]
    fn what_differs_applied_to_the_old_gives_the_new(old in elements(), new in elements()) {
        let changes = diff(&old, &new);
        let mut result = old;
        for (set, members) in changes.remove {
            for member in members {
                prop_assert!(result.get_mut(&set).is_some_and(|held| held.remove(&member)));
            }
        }
        for (set, members) in changes.add {
            for member in members {
                prop_assert!(result.entry(set.clone()).or_default().insert(member));
            }
        }
        result.retain(|_, members| !members.is_empty());
        prop_assert_eq!(result, new);
    }
}
