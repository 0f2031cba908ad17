//! Which of our processes owns the other end of a connection on loopback.

use std::fs;

/// The index in `pids` of the process that connected from `from` to `to` (ports of 127.0.0.1); 0 is no process.
pub(super) fn owner(from: u16, to: u16, pids: &[u32]) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode(&table, from, to)?;
    let socket = format!("socket:[{inode}]");
    pids.iter().position(|pid| *pid != 0 && has_open(*pid, &socket))
}

/// The inode of the socket with these ports.
fn inode(table: &str, from: u16, to: u16) -> Option<&str> {
    let (from, to) = (format!("0100007F:{from:04X}"), format!("0100007F:{to:04X}"));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_it = fields.next() == Some(&from) && fields.next() == Some(&to);
        is_it.then(|| fields.nth(6)).flatten()
    })
}

fn has_open(pid: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_socket_is_found_by_its_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:2711 0100007F:4E20 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20 0 0 10 -1\n";
        assert_eq!(inode(table, 10_001, 20_000), Some("4711"));
        assert_eq!(inode(table, 20_000, 10_001), None);
    }

    #[test]
    fn who_connected_is_found_and_who_did_not_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().port();
        let stream = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let from = stream.local_addr().unwrap().port();
        let (init, me) = (1, std::process::id());
        assert_eq!(owner(from, to, &[0, init, me]), Some(2));
        assert_eq!(owner(from, to, &[init]), None);
        drop(stream);
    }
}
