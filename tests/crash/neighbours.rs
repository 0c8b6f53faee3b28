//! Two Joeys on one machine, in one network.

use crate::cluster::Cluster;
use crate::scene::{BACKEND, delete, identities, start, wait_held};

#[test]
fn two_joeys_on_one_machine_do_not_meet() {
    let (mut first, alone) = start("first");
    first.apply(BACKEND).ok();
    first.wait_running("kangaroo-backend");
    let mut second = Cluster::start_beside(
        "second",
        &[
            ("JOEY_LISTEN", "127.0.0.1:7443"),
            ("JOEY_POD_CIDR", "10.77.0.0/16"),
            ("JOEY_SERVICE_CIDR", "10.78.0.0/16"),
        ],
    );
    second.apply(BACKEND).ok();
    second.wait_running("kangaroo-backend");
    let (one, two) = (identities(&first), identities(&second));
    let (one, two) = (&one["kangaroo-backend"], &two["kangaroo-backend"]);
    assert!(one.address.starts_with("10.42."), "{}", one.address);
    assert!(two.address.starts_with("10.77."), "{}", two.address);
    for address in [&one.address, &two.address] {
        let answer = first.fetch(&format!("http://{address}/")).ok();
        assert!(answer.contains("kangaroo-backend 1.14.2"), "{answer}");
    }
    // The death of the one is nothing to the other.
    first.kill_daemon();
    assert!(second.fetch(&format!("http://{}/", two.address)).code == 0);
    first.start_daemon();
    assert_eq!(&identities(&first)["kangaroo-backend"], one);
    assert_eq!(&identities(&second)["kangaroo-backend"], two);
    // Nor is its end, of which nothing is left beside the other.
    second.finish();
    assert_eq!(&identities(&first)["kangaroo-backend"], one);
    let answer = first.fetch(&format!("http://{}/", one.address)).ok();
    assert!(answer.contains("kangaroo-backend 1.14.2"), "{answer}");
    delete(&mut first, "kangaroo-backend");
    wait_held(&mut first, &alone);
    first.finish();
}
