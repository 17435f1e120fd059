//! Says which port is taken, and by whom.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// An address that a part of the stack is going to listen on.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What is going to listen there, such as "hub".
    pub part: &'static str,
    /// The flag that chooses another port.
    pub flag: &'static str,
    /// Where.
    pub addr: SocketAddr,
}

/// The process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A process that this user may look at.
    Process {
        /// Its id.
        pid: u32,
        /// Its name, as the kernel keeps it.
        name: String,
    },
    /// Somebody; the system or its permissions do not let us see who.
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "{name} (process {pid})"),
            Self::Unknown => f.write_str("another process"),
        }
    }
}

/// Fails with one line for each claim that cannot be listened on.
pub fn check_free(claims: &[Claim]) -> anyhow::Result<()> {
    let problems: Vec<String> = claims.iter().filter_map(problem).collect();
    if problems.is_empty() {
        return Ok(());
    }
    anyhow::bail!(problems.join("\n"))
}

fn problem(claim: &Claim) -> Option<String> {
    let Claim { part, flag, addr } = claim;
    // The hub shares its port among its own threads, so its bind would succeed beside another hub.
    let error = TcpListener::bind(addr).err()?;
    if error.kind() == io::ErrorKind::AddrInUse {
        let owner = owner(addr.port());
        Some(format!(
            "port {} for the {part} is taken by {owner}; stop it, or choose another port with {flag}",
            addr.port()
        ))
    } else {
        Some(format!("the {part} cannot listen on {addr}: {error}"))
    }
}

/// The address itself, or for port 0 one with a port that is free right now.
///
/// For an address that somebody has to know before its owner listens. The port is below those that
/// the kernel gives to whoever asks for any, so that nobody gets it meanwhile by chance.
pub fn choose(addr: SocketAddr) -> io::Result<SocketAddr> {
    const FIRST: u16 = 10_000;
    const COUNT: u32 = 20_000;
    static CHOSEN: AtomicU32 = AtomicU32::new(0);
    if addr.port() != 0 {
        return Ok(addr);
    }
    // Programs that choose at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let number = begin.wrapping_add(CHOSEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = FIRST + u16::try_from(number).unwrap_or_default();
        let chosen = SocketAddr::new(addr.ip(), port);
        if TcpListener::bind(chosen).is_ok() {
            return Ok(chosen);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Who listens on this TCP port, at any address.
///
/// Looks in `/proc`; elsewhere than on Linux the answer is [`Owner::Unknown`].
pub fn owner(port: u16) -> Owner {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let sockets: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    process_with_socket(&sockets).unwrap_or(Owner::Unknown)
}

/// The sockets that listen on `port` in a table such as `/proc/net/tcp`; proc(5).
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let port = format!("{port:04X}");
    let inode = |line: &str| -> Option<String> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_listening = *fields.get(3)? == LISTEN && local_port == port;
        is_listening.then(|| fields.get(9).map(|&inode| inode.to_owned()))?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn process_with_socket(sockets: &[String]) -> Option<Owner> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        has_socket(&entry.path(), sockets).then(|| Owner::Process {
            pid,
            name: process_name(&entry.path()),
        })
    })
}

fn has_socket(process: &Path, sockets: &[String]) -> bool {
    // Processes of other users cannot be looked into.
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
        .any(|target| sockets.iter().any(|socket| target == Path::new(socket)))
}

fn process_name(process: &Path) -> String {
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    match name.trim() {
        "" => "a process without a name".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(addr: SocketAddr) -> Claim {
        Claim {
            part: "hub",
            flag: "--hub-port",
            addr,
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_taken_port_is_reported_with_its_owner() {
        for taken in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            // A machine without IPv6 has nothing to show here.
            let Ok(listener) = TcpListener::bind(taken) else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            let error = check_free(&[claim(addr)]).unwrap_err().to_string();
            let pid = std::process::id();
            let name = process_name(Path::new("/proc/self"));
            assert_eq!(
                error,
                format!(
                    "port {port} for the hub is taken by {name} (process {pid}); stop it, or \
                     choose another port with --hub-port"
                )
            );
        }
    }

    #[test]
    fn all_taken_ports_are_reported_at_once() {
        let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let claims = listeners
            .each_ref()
            .map(|listener| claim(listener.local_addr().unwrap()));
        let error = check_free(&claims).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 2, "{error}");
    }

    #[test]
    fn a_chosen_port_is_free_and_chosen_once() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let chosen = [0; 20].map(|_| choose(any).unwrap());
        for (index, addr) in chosen.iter().enumerate() {
            assert!((10_000..30_000).contains(&addr.port()), "{addr}");
            assert!(!chosen[..index].contains(addr), "{addr} twice");
            TcpListener::bind(addr).unwrap();
        }
        let fixed = SocketAddr::from(([127, 0, 0, 1], 7999));
        assert_eq!(choose(fixed).unwrap(), fixed);
    }

    #[test]
    fn free_ports_are_no_problem() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        check_free(&[claim(any), claim(any)]).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_reported_as_such() {
        // TEST-NET-1 belongs to nobody; RFC 5737.
        let addr = SocketAddr::from(([192, 0, 2, 1], 7999));
        let error = check_free(&[claim(addr)]).unwrap_err().to_string();
        assert!(error.starts_with("the hub cannot listen on 192.0.2.1:7999"));
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F3F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n\
             1: 0100007F:1F3F 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1\n\
             2: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1\n\
             3: broken\n";
        assert_eq!(listening_inodes(table, 7999), ["111"]);
        assert_eq!(listening_inodes("", 7999), Vec::<String>::new());
    }
}
