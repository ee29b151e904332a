//! HTTP/2 by hand over good TLS, for frames that no library would send.

use std::io;
use std::sync::Arc;

use overseer_protocol::Endpoint;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What every connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
#[allow(missing_docs)]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Codes with which a connection is left.
#[allow(missing_docs)]
pub mod code {
    pub const NONE: u32 = 0;
    pub const PROTOCOL: u32 = 1;
    pub const FLOW_CONTROL: u32 = 3;
    pub const FRAME_SIZE: u32 = 6;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A socket of either kind.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A connection whose TLS handshake is done.
pub type Wire = TlsStream<Box<dyn Socket>>;

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Shown {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Connects to the gateway and shakes hands.
pub async fn dial(endpoint: &Endpoint, authorities: &str, shown: Option<&Shown>) -> Wire {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authorities.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let mut config = match shown {
        Some(Shown { certificate, key }) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket: Box<dyn Socket> = match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
    };
    let name = ServerName::try_from("overseer").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a gRPC request that goes on.
pub fn request(stream: u32, path: &str) -> Vec<u8> {
    const END_HEADERS: u8 = 4;
    // `POST`, `https`, a path; each of the rest without an index.
    let mut headers = vec![0x83, 0x87, 0x04, path.len() as u8];
    headers.extend(path.as_bytes());
    for (name, value) in
        [(":authority", "overseer"), ("content-type", "application/grpc"), ("te", "trailers")]
    {
        headers.extend([0, name.len() as u8]);
        headers.extend(name.as_bytes());
        headers.push(value.len() as u8);
        headers.extend(value.as_bytes());
    }
    frame(kind::HEADERS, END_HEADERS, stream, &headers)
}

/// Reads to the end of the connection, and gives the code with which the other end left, if it
/// said one.
pub async fn end_of(wire: &mut (impl AsyncRead + Unpin)) -> Option<u32> {
    let mut left = None;
    // However it ends: it may hang up while we still talk.
    while let Ok((header, payload)) = read(wire).await {
        if header[3] == kind::GOAWAY {
            left = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    left
}

/// Answers pings until the end of the connection.
pub async fn stay(mut wire: Wire) {
    const ACK: u8 = 1;
    while let Ok((header, payload)) = read(&mut wire).await {
        if header[3] == kind::PING && header[4] & ACK == 0 {
            // Its end is seen above.
            let _ = wire.write_all(&frame(kind::PING, ACK, 0, &payload)).await;
        }
    }
}

/// The next frame: its header, its payload.
async fn read(wire: &mut (impl AsyncRead + Unpin)) -> io::Result<([u8; 9], Vec<u8>)> {
    let mut header = [0; 9];
    wire.read_exact(&mut header).await?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    wire.read_exact(&mut payload).await?;
    Ok((header, payload))
}
