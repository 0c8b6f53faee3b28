//! Names of registries, resolved by hickory from the host's configuration, never through the C library.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;

const PATIENCE: Duration = Duration::from_secs(15);
/// More addresses of one name than are worth trying.
const ADDRESSES_MAX: usize = 8;
/// What helps where no registry can be found by name.
const WAY_OUT: &str = "mend /etc/resolv.conf, or bring the image as a file: joey image import FILE";

/// The host's resolvers, as they were when this was made.
pub struct Names {
    /// Without a configuration addresses still work, and names say what is missing.
    resolver: Option<TokioResolver>,
    servers: Vec<IpAddr>,
}

impl Names {
    pub fn of_host() -> Names {
        let Ok((config, options)) = read_system_conf() else {
            return Names { resolver: None, servers: Vec::new() };
        };
        let servers = config.name_servers().iter().map(|server| server.ip).collect();
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, provider).with_options(options);
        Names { resolver: builder.build().ok(), servers }
    }

    /// The addresses of a host: its own if it is one, else those of its name.
    ///
    /// # Errors
    /// Why there are none, and what helps.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let Some(resolver) = &self.resolver else {
            return Err(format!("the host names no resolver; {WAY_OUT}"));
        };
        match tokio::time::timeout(PATIENCE, resolver.lookup_ip(host)).await {
            Ok(Ok(found)) => Ok(found.iter().take(ADDRESSES_MAX).collect()),
            Ok(Err(error)) => Err(words(&error, &self.servers)),
            Err(_) => Err(words(&NetError::Timeout, &self.servers)),
        }
    }
}

fn words(error: &NetError, servers: &[IpAddr]) -> String {
    match error {
        error if error.is_nx_domain() || error.is_no_records_found() => "no such host".to_owned(),
        NetError::NoConnections | NetError::Timeout | NetError::Io(_) => {
            let asked: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
            format!("no answer from the host's resolvers ({}); {WAY_OUT}", asked.join(", "))
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Query, ResponseCode};
    use hickory_resolver::net::{DnsError, NoRecords};

    use super::*;

    #[test]
    fn a_name_that_cannot_be_resolved_says_who_was_asked_and_what_helps() {
        let servers = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let silent = "no answer from the host's resolvers (192.0.2.1, 2001:db8::1); mend /etc/resolv.conf, or bring \
                      the image as a file: joey image import FILE";
        let none = NoRecords::new(Query::default(), ResponseCode::NXDomain);
        for (error, expected) in [
            (NetError::NoConnections, silent),
            (NetError::Timeout, silent),
            (NetError::Dns(DnsError::NoRecordsFound(none)), "no such host"),
            (NetError::Truncated, &*NetError::Truncated.to_string()),
        ] {
            assert_eq!(words(&error, &servers), expected);
        }
    }

    #[tokio::test]
    async fn without_a_configuration_addresses_work_and_names_say_what_is_missing() {
        let names = Names { resolver: None, servers: Vec::new() };
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(names.addresses("192.0.2.7").await, Ok(vec![address]));
        let reason = names.addresses("registry.example").await.unwrap_err();
        assert!(reason.starts_with("the host names no resolver; "), "{reason}");
    }
}
