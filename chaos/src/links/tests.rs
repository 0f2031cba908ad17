use super::*;

/// Two ends on free ports, both of this process; the second one echoes.
async fn echoing() -> (Links, TcpStream) {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let end = |peer_port, pid| End { peer_port, proxy_port: free(), pid: AtomicU32::new(pid) };
    let echo = end(target.local_addr().unwrap().port(), 0);
    let proxy_port = echo.proxy_port;
    let links = Links::listen(vec![end(1, std::process::id()), echo], Trace::default()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = target.accept().await {
            let (mut from, mut to) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
        }
    });
    (links, TcpStream::connect(loopback(proxy_port)).await.unwrap())
}

/// Sends a byte; what came back within `patience`: a byte, the connection's end, or nothing.
async fn ask(stream: &mut TcpStream, patience: Duration) -> Option<bool> {
    let mut answer = [0];
    if stream.write_all(b"x").await.is_err() {
        return Some(false);
    }
    let read = tokio::time::timeout(patience, stream.read(&mut answer)).await.ok()?;
    Some(read.is_ok_and(|n| n == 1))
}

const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_link_delays_what_is_sent_over_it() {
    let (links, mut stream) = echoing().await;
    assert_eq!(ask(&mut stream, LATE).await, Some(true));
    let delay = Duration::from_millis(300);
    links.set(0, 1, Link::Delay(delay));
    links.set(1, 0, Link::Delay(delay));
    let asked = Instant::now();
    assert_eq!(ask(&mut stream, LATE).await, Some(true));
    assert!(asked.elapsed() >= delay * 2, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_link_that_drops_answers_when_it_is_healed_whichever_its_direction() {
    for (from, to) in [(0, 1), (1, 0)] {
        let (links, mut stream) = echoing().await;
        links.set(from, to, Link::Drop);
        assert_eq!(ask(&mut stream, SOON).await, None);
        links.heal();
        let mut answer = [0];
        let read = tokio::time::timeout(LATE, stream.read(&mut answer)).await.unwrap();
        assert_eq!(read.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_link_that_is_cut_ends_connections_whichever_its_direction() {
    for (from, to) in [(0, 1), (1, 0)] {
        let (links, mut stream) = echoing().await;
        assert_eq!(ask(&mut stream, LATE).await, Some(true));
        links.set(from, to, Link::Cut);
        assert_eq!(ask(&mut stream, LATE).await, Some(false));
    }
}

#[tokio::test]
async fn a_link_without_a_fault_is_not_touched_by_others() {
    let (links, mut stream) = echoing().await;
    links.set(0, 0, Link::Cut);
    links.set(1, 1, Link::Drop);
    assert_eq!(ask(&mut stream, LATE).await, Some(true));
}
