use super::*;

struct Echo;

#[async_trait]
impl PeerHandler for Echo {
    async fn rpc(&self, kind: RpcKind, envelope: Envelope, body: Bytes) -> Result<Bytes, Refusal> {
        if envelope.to == Some(13) {
            return Err(Refusal::WrongNode);
        }
        if kind == RpcKind::Vote {
            std::future::pending::<()>().await;
        }
        let head = format!("{} {} {:?} ", kind.name(), envelope.from, envelope.cluster_id);
        Ok([head.as_bytes(), &body].concat().into())
    }

    async fn duplex(&self, _: RpcKind, _: Envelope, messages: Messages) -> Result<Messages, Refusal> {
        Ok(messages.map_ok(|message| [&b"<"[..], &message, b">"].concat().into()).boxed())
    }
}

async fn served() -> (HttpTransport, Listening, String) {
    let transport = HttpTransport::new().unwrap();
    let listening = transport.listen("127.0.0.1:0".parse().unwrap(), Arc::new(Echo)).await.unwrap();
    let url = format!("http://{}", listening.addr);
    (transport, listening, url)
}

fn from(from: u64) -> Envelope {
    Envelope { from, to: None, cluster_id: Some("c1".to_owned()) }
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_message_arrives_with_its_envelope_and_a_refusal_keeps_its_reason() {
    let (transport, _listening, url) = served().await;
    let answer = transport.rpc(&url, RpcKind::App, from(5), Bytes::from_static(b"hi"), SOON).await.unwrap();
    assert_eq!(answer, r#"app 5 Some("c1") hi"#);
    let wrong = Envelope { to: Some(13), ..from(5) };
    let refused = transport.rpc(&url, RpcKind::App, wrong, Bytes::new(), SOON).await.unwrap_err();
    assert!(matches!(refused, TransportError::Refused { refusal: Refusal::WrongNode, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_conversation_answers_each_message_while_it_is_still_open() {
    let (transport, _listening, url) = served().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(receive).boxed();
    let mut answers = transport.duplex(&url, RpcKind::AppendStream, from(5), messages, SOON).await.unwrap();
    for text in ["a", "", "ccc"] {
        send.send(Bytes::from(text)).await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap(), format!("<{text}>"));
    }
    drop(send);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn nobody_listening_is_told_from_no_answer() {
    let (transport, listening, url) = served().await;
    let late = transport
        .rpc(&url, RpcKind::Vote, from(5), Bytes::new(), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(late, TransportError::NoAnswer { .. }), "{late:?}");
    drop(listening);
    let fresh = HttpTransport::new().unwrap();
    loop {
        match fresh.rpc(&url, RpcKind::App, from(5), Bytes::new(), SOON).await {
            Err(TransportError::Unreachable { .. }) => break,
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn closing_the_listener_ends_what_is_in_flight() {
    let (transport, listening, url) = served().await;
    let (_send, receive) = tokio::sync::mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(receive).boxed();
    let mut answers = transport.duplex(&url, RpcKind::AppendStream, from(5), messages, SOON).await.unwrap();
    let vote = transport.rpc(&url, RpcKind::Vote, from(5), Bytes::new(), SOON);
    let ended = async {
        tokio::task::yield_now().await;
        drop(listening);
        while let Some(Ok(_)) = answers.next().await {}
    };
    let (vote, ()) = tokio::join!(vote, ended);
    vote.unwrap_err();
}

#[tokio::test]
async fn what_a_closing_listener_gave_up_is_not_told_as_refused() {
    let (transport, listening, url) = served().await;
    // The connection is there, so that the message is delivered before the listener closes.
    transport.rpc(&url, RpcKind::Hello, from(5), Bytes::new(), SOON).await.unwrap();
    let begun = transport.rpc(&url, RpcKind::Vote, from(5), Bytes::new(), SOON);
    let closed = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(listening);
    };
    let (begun, ()) = tokio::join!(begun, closed);
    assert!(matches!(begun, Err(TransportError::NoAnswer { .. })), "{begun:?}");
}

#[tokio::test]
async fn another_wire_version_is_refused() {
    let (_transport, _listening, url) = served().await;
    let client = Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let request = client.post(format!("{url}/peer/v1/app")).header(HEADER_WIRE, 99).header(HEADER_FROM, 1);
    let refused = accepted(&url, request.send().await.unwrap()).await.unwrap_err();
    let TransportError::Refused { refusal: Refusal::WrongVersion(why), .. } = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains("wire version 1") && why.contains("99"), "{why}");
}
