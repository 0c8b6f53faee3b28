//! What passes on every wire of the network of the thread that starts it, as tcpdump would see it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with, sockopt,
};

/// A running capture.
pub struct Capture {
    stop: Arc<AtomicBool>,
    packets: Arc<Mutex<Vec<Packet>>>,
    thread: JoinHandle<()>,
}

/// A TCP segment over IPv4.
#[derive(Debug, Clone)]
pub struct Packet {
    pub from: u16,
    pub to: u16,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn holds(&self, text: &str) -> bool {
        self.payload.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl Capture {
    pub fn start() -> Capture {
        // packet(7): without the link's header, which is not the same everywhere.
        let kind = (AddressFamily::PACKET, SocketType::DGRAM);
        let socket = socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, Some(eth::ALL));
        let socket = socket.expect("root may capture");
        let pause = Some(std::time::Duration::from_millis(50));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, pause).expect("a timeout");
        let (stop, packets) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (over, record) = (Arc::clone(&stop), Arc::clone(&packets));
        let thread = std::thread::spawn(move || {
            let mut block = vec![0; 65_536];
            while !over.load(Ordering::Relaxed) {
                match recv(&socket, &mut block[..], RecvFlags::empty()) {
                    Ok((_, length)) => {
                        record
                            .lock()
                            .expect("the capture has not broken")
                            .extend(segment(&block[..length.min(65_536)]));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => panic!("the capture broke: {error}"),
                }
            }
        });
        Capture { stop, packets, thread }
    }

    /// What has passed so far.
    pub fn packets(&self) -> Vec<Packet> {
        self.packets.lock().expect("the capture has not broken").clone()
    }

    pub fn end(self) -> Vec<Packet> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the capture ends well");
        self.packets.lock().expect("the capture has not broken").clone()
    }
}

/// RFC 791 §3.1, RFC 9293 §3.1.
fn segment(packet: &[u8]) -> Option<Packet> {
    let header = usize::from(packet.first()? & 15) * 4;
    (packet[0] >> 4 == 4 && *packet.get(9)? == 6).then_some(())?;
    let tcp = packet.get(header..)?;
    let offset = usize::from(tcp.get(12)? >> 4) * 4;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some(Packet { from: port(0)?, to: port(2)?, payload: tcp.get(offset..)?.to_vec() })
}
