//! The story, chapter by chapter, with the real kubectl against the real daemon.

#[path = "harness/cluster.rs"]
mod cluster;

#[path = "harness/census.rs"]
mod census;

#[path = "story/autoscaling.rs"]
mod autoscaling;
#[path = "story/capture.rs"]
mod capture;
#[path = "story/containment.rs"]
mod containment;

#[path = "story/doctor.rs"]
mod doctor;

#[path = "story/pod.rs"]
mod pod;

#[path = "story/deployment.rs"]
mod deployment;
#[path = "story/described.rs"]
mod described;
#[path = "story/ingress.rs"]
mod ingress;
#[path = "story/killed.rs"]
mod killed;
#[path = "story/learn.rs"]
mod learn;
#[path = "story/load.rs"]
mod load;
#[path = "story/lossless.rs"]
mod lossless;
#[path = "story/lossless_ingress.rs"]
mod lossless_ingress;
#[path = "story/nodes.rs"]
mod nodes;
#[path = "story/owners.rs"]
mod owners;
#[path = "story/probes.rs"]
mod probes;
#[path = "story/proxied_streams.rs"]
mod proxied_streams;
#[path = "story/proxy.rs"]
mod proxy;
#[path = "story/pruning.rs"]
mod pruning;

#[path = "story/reset.rs"]
mod reset;
#[path = "story/restart.rs"]
mod restart;

#[path = "story/standards.rs"]
mod standards;
#[path = "story/streams.rs"]
mod streams;
#[path = "story/sudo.rs"]
mod sudo;

#[path = "story/policy.rs"]
mod policy;
#[path = "story/rivals.rs"]
mod rivals;

#[path = "story/mistakes.rs"]
mod mistakes;

#[path = "story/service.rs"]
mod service;

#[path = "story/sets.rs"]
mod sets;

#[path = "story/throughput.rs"]
mod throughput;

#[path = "story/why.rs"]
mod why;
