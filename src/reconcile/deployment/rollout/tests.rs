//! Tables for the arithmetic, and what holds for all numbers.

use proptest::prelude::*;

use super::*;

fn percent(text: &str) -> IntOrString {
    IntOrString::String(text.into())
}

#[test]
fn surge_rounds_up_unavailable_down_and_one_may_be_missing_when_nothing_is_left() {
    let limits = |desired, surge: Option<IntOrString>, unavailable: Option<IntOrString>| {
        let limits = Limits::rolling(desired, surge.as_ref(), unavailable.as_ref());
        (limits.surge, limits.unavailable)
    };
    assert_eq!(limits(3, None, None), (1, 0));
    assert_eq!(limits(4, None, None), (1, 1));
    assert_eq!(limits(10, Some(percent("30%")), Some(percent("35%"))), (3, 3));
    assert_eq!(limits(3, Some(percent("0%")), Some(percent("10%"))), (0, 1));
    assert_eq!(limits(3, Some(IntOrString::Int(0)), Some(IntOrString::Int(0))), (0, 1));
    assert_eq!(limits(2, Some(IntOrString::Int(5)), Some(IntOrString::Int(9))), (5, 2));
    assert_eq!(limits(0, None, None), (0, 0));
}

fn size(wanted: i32, available: i32) -> Size {
    Size { wanted, held: wanted, available, is_settled: true }
}

#[test]
fn a_new_pod_starts_before_an_old_one_stops() {
    let limits = Limits::rolling(3, None, None);
    // (newest, old) → next sizes
    let step = |newest, old| (grow(limits, newest, &[old]), shrink(limits, newest, &[old])[0]);
    assert_eq!(step(size(0, 0), size(3, 3)), (1, 3));
    assert_eq!(step(size(1, 0), size(3, 3)), (1, 3), "not ready yet");
    assert_eq!(step(size(1, 1), size(3, 3)), (1, 2));
    assert_eq!(step(size(1, 1), size(2, 2)), (2, 2));
    assert_eq!(step(size(3, 3), size(1, 1)), (3, 0));
}

#[test]
fn a_set_that_has_not_obeyed_still_holds_its_pods() {
    let limits = Limits { desired: 3, surge: 1, unavailable: 1 };
    let obeying = Size { wanted: 2, held: 3, available: 3, is_settled: true };
    assert_eq!(grow(limits, size(1, 1), &[obeying]), 1, "its third pod is still there");
    assert_eq!(shrink(limits, size(1, 1), &[obeying]), [1], "it counts as two");
    let deaf = Size { is_settled: false, ..size(2, 2) };
    assert_eq!(grow(limits, size(1, 1), &[deaf]), 1);
    assert_eq!(grow(limits, size(1, 1), &[size(2, 2)]), 2);
}

#[test]
fn what_does_not_serve_goes_first_whatever_its_age() {
    let limits = Limits { desired: 4, surge: 1, unavailable: 1 };
    assert_eq!(shrink(limits, size(1, 1), &[size(2, 2), size(2, 0)]), [2, 0]);
    assert_eq!(
        shrink(limits, size(2, 0), &[size(2, 2), size(1, 1)]),
        [2, 1],
        "the new do not serve"
    );
}

#[test]
fn a_rollout_under_way_keeps_its_balance_when_it_is_scaled() {
    // The example of the documentation: 8 old and 5 new of 10, max surge 3, scaled to 15.
    let limits = Limits { desired: 15, surge: 3, unavailable: 2 };
    let shares = [
        Share { wanted: 8, maximum_before: 13, age: 0 },
        Share { wanted: 5, maximum_before: 13, age: 1 },
    ];
    assert_eq!(spread(limits, &shares), [11, 7]);
    let limits = Limits { desired: 5, surge: 2, unavailable: 1 };
    assert_eq!(spread(limits, &shares), [4, 3]);
    let limits = Limits { desired: 0, surge: 0, unavailable: 0 };
    assert_eq!(spread(limits, &shares), [0, 0]);
}

fn sizes() -> impl Strategy<Value = Size> {
    (0..20i32, 0..20i32, 0..20i32, any::<bool>()).prop_map(
        |(wanted, held, available, is_settled)| Size {
            wanted,
            held,
            available: available.min(held),
            is_settled,
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..20i32, 0..6i32, 0..6i32).prop_map(|(desired, surge, unavailable)| {
        let int = |number| Some(IntOrString::Int(number));
        Limits::rolling(desired, int(surge).as_ref(), int(unavailable).as_ref())
    })
}

proptest! {
    #[test]
    fn growing_never_exceeds_the_surge(
        limits in limits(), newest in sizes(), old in proptest::collection::vec(sizes(), 0..4),
    ) {
        let next = grow(limits, newest, &old);
        prop_assert!(next >= newest.wanted);
        if next > newest.wanted {
            let others: i32 = old.iter().map(|size| size.most()).sum();
            prop_assert!(next.max(newest.held) + others <= limits.most());
            prop_assert!(next <= limits.desired);
        }
    }

    #[test]
    fn shrinking_never_takes_what_has_to_serve(
        limits in limits(), newest in sizes(), old in proptest::collection::vec(sizes(), 0..4),
    ) {
        let next = shrink(limits, newest, &old);
        let sure = |next: &[i32]| {
            next.iter().zip(&old).map(|(n, size)| size.available.min(*n)).sum::<i32>() + newest.sure()
        };
        let before: Vec<i32> = old.iter().map(|size| size.wanted).collect();
        prop_assert!(next.iter().zip(&before).all(|(next, before)| (0..=*before).contains(next)));
        prop_assert!(next == before || sure(&next) >= limits.least_available().min(sure(&before)));
    }

    #[test]
    fn spreading_gives_out_exactly_what_is_allowed(
        limits in limits(),
        shares in proptest::collection::vec((1..20i32, 1..40i32), 1..5),
    ) {
        let shares: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(age, (wanted, maximum_before))| Share { wanted, maximum_before, age })
            .collect();
        let next = spread(limits, &shares);
        let allowed = if limits.desired > 0 { limits.most() } else { 0 };
        prop_assert!(next.iter().all(|size| *size >= 0));
        prop_assert_eq!(next.iter().sum::<i32>(), allowed);
    }
}

#[test]
fn absurd_numbers_of_replicas_do_not_wrap() {
    let huge = |wanted| Size { wanted, held: wanted, available: wanted, is_settled: true };
    let limits = Limits { desired: i32::MAX, surge: i32::MAX, unavailable: i32::MAX };
    let old = [huge(i32::MAX), huge(i32::MAX)];
    assert_eq!(grow(limits, huge(5), &old), 5);
    // More than can be counted: nothing goes.
    assert_eq!(shrink(Limits::recreate(i32::MAX), huge(5), &old), [i32::MAX, i32::MAX]);
}
