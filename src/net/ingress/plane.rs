//! The ingress as one of the ways by which traffic finds pods.

use std::net::IpAddr;

use futures::future::BoxFuture;

use super::Ingress;
use crate::net::DataPlane;

impl DataPlane for Ingress {
    fn name(&self) -> &'static str {
        "ingress"
    }

    fn without(&self, address: IpAddr) -> BoxFuture<'_, ()> {
        Box::pin(self.proxy.upstreams.without(address))
    }

    fn withhold(&self, address: IpAddr) {
        self.withdraw(address);
    }

    fn release(&self, address: IpAddr) {
        self.proxy.upstreams.release(address);
    }
}
