//! The daemon dies, the shim dies, at any moment: pods run on, what was begun is finished or undone, and
//! nothing is left behind.

#[path = "harness/cluster.rs"]
mod cluster;

#[path = "harness/census.rs"]
mod census;

#[path = "crash/scene.rs"]
mod scene;

#[path = "crash/mixed.rs"]
mod mixed;

#[path = "crash/rollouts.rs"]
mod rollouts;

#[path = "crash/unwatched.rs"]
mod unwatched;

#[path = "crash/anywhere.rs"]
mod anywhere;

#[path = "crash/calm.rs"]
mod calm;

#[path = "crash/shim.rs"]
mod shim;

#[path = "crash/cycles.rs"]
mod cycles;

#[path = "crash/neighbours.rs"]
mod neighbours;

#[path = "crash/following.rs"]
mod following;
