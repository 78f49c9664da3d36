//! A small network for one test: a namespace for each host, joined by a bridge in a namespace of its own; every link can be cut, in one direction too.
//!
//! Needs root, `ip` (iproute2) and `nft` (nftables). Nothing of it touches the machine's own network; it is removed with the value, and
//! what an earlier killed test left is removed by the next one with the same process number only, so names are never shared.

use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Hosts 1 to `count` with addresses 10.77.0.1 and so on.
pub struct Network {
    name: String,
    count: u16,
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} can't be run ({error}); install iproute2 and nftables"))
}

fn must(program: &str, arguments: &[&str]) {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// Makes it.
    ///
    /// # Panics
    /// Not root, or a program is missing.
    pub fn new(count: u16) -> Network {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rg{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let network = Network { name, count };
        let switch = network.namespace(0);
        must("ip", &["netns", "add", &switch]);
        must("ip", &["-n", &switch, "link", "add", "sw", "type", "bridge"]);
        must("ip", &["-n", &switch, "link", "set", "sw", "up"]);
        for host in 1..=count {
            network.add(host, &switch);
        }
        network
    }

    fn add(&self, host: u16, switch: &str) {
        let (space, port) = (self.namespace(host), format!("p{host}"));
        must("ip", &["netns", "add", &space]);
        must("ip", &["-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "eth", "netns", &space]);
        must("ip", &["-n", switch, "link", "set", &port, "master", "sw", "up"]);
        must("ip", &["-n", &space, "link", "set", "lo", "up"]);
        must("ip", &["-n", &space, "addr", "add", &format!("{}/24", Network::address(host)), "dev", "eth"]);
        must("ip", &["-n", &space, "link", "set", "eth", "up"]);
        let rules = "add table inet cut; add set inet cut from { type ipv4_addr; }; \
                     add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in ip saddr @from drop";
        must("ip", &["netns", "exec", &space, "nft", rules]);
    }

    /// The address of `host`.
    pub fn address(host: u16) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(host).expect("few hosts"))
    }

    /// The namespace of `host`; 0 is the bridge's.
    pub fn namespace(&self, host: u16) -> String {
        format!("{}h{host}", self.name)
    }

    /// A command that runs `program` on `host`. The process that is spawned becomes the program, with the same number.
    pub fn command(&self, host: u16, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// What `from` sends doesn't arrive at `to` any more.
    pub fn cut(&self, from: u16, to: u16) {
        self.change("add", from, to);
    }

    /// It arrives again.
    pub fn mend(&self, from: u16, to: u16) {
        self.change("delete", from, to);
    }

    /// Cuts or mends all links, both ways, between hosts of `one` and hosts of `other`.
    pub fn part(&self, one: &[u16], other: &[u16], cut: bool) {
        for (&one, &other) in one.iter().flat_map(|one| other.iter().map(move |other| (one, other))) {
            for (from, to) in [(one, other), (other, one)] {
                if cut { self.cut(from, to) } else { self.mend(from, to) }
            }
        }
    }

    fn change(&self, how: &str, from: u16, to: u16) {
        let rule = format!("{how} element inet cut from {{ {} }}", Network::address(from));
        must("ip", &["netns", "exec", &self.namespace(to), "nft", &rule]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..=self.count {
            // It may not have come to be; that it is gone is what counts.
            drop(run("ip", &["netns", "del", &self.namespace(host)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaches(network: &Network, from: u16, to: u16) -> bool {
        let script = format!(
            "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(0.3)\n\
             s.connect(('{}',9))\ns.send(b'x')\ntry:\n s.recv(1)\nexcept ConnectionRefusedError: sys.exit(0)\nexcept TimeoutError: sys.exit(1)\n",
            Network::address(to)
        );
        network.command(from, std::path::Path::new("python3")).args(["-c", &script]).status().expect("python3 runs").success()
    }

    #[test]
    fn links_are_cut_and_mended_in_either_direction() {
        let network = Network::new(2);
        assert!(reaches(&network, 1, 2) && reaches(&network, 2, 1));
        // A datagram to a closed port is answered with a refusal: cutting either direction hides it.
        network.cut(1, 2);
        assert!(!reaches(&network, 1, 2));
        network.mend(1, 2);
        assert!(reaches(&network, 1, 2));
        network.part(&[1], &[2], true);
        assert!(!reaches(&network, 2, 1));
        network.part(&[1], &[2], false);
        assert!(reaches(&network, 2, 1));
    }
}
