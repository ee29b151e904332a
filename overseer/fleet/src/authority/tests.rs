use std::sync::Arc;

use overseer_protocol::{Generation, LaborId};
use rcgen::CustomExtension;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;
use crate::claims::millis;
use crate::store::Transaction;
use crate::store::{Durability, RedbStore};

const HOUR: Duration = Duration::from_secs(3600);

struct Rig {
    store: RedbStore,
    _directory: tempfile::TempDir,
}

fn rig() -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    Rig { store: RedbStore::open(path, Durability::Ephemeral).unwrap(), _directory: directory }
}

fn identity() -> Identity {
    Identity { fleet: "farm".parse().unwrap(), labor: LaborId::new(1, 2), generation: Generation(3) }
}

fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn der_of(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn servers_of_one_store_agree_on_the_authority() {
    let rig = rig();
    let now = SystemTime::now();
    let (a, b) =
        tokio::join!(Authority::load_or_create(&rig.store, now), Authority::load_or_create(&rig.store, now));
    let again = Authority::load_or_create(&rig.store, now + HOUR).await.unwrap();
    assert_eq!(a.unwrap().certificate(), b.unwrap().certificate());
    let debug = format!("{again:?}");
    assert!(!debug.contains("PRIVATE") && !debug.contains("BEGIN"), "{debug}");
    let over = Authority::load_or_create(&rig.store, now + AUTHORITY_LIFE + HOUR).await;
    assert!(matches!(over, Err(AuthorityError::Expired)));
}

#[tokio::test]
async fn a_certificate_says_who_and_how_long_and_nothing_that_the_labor_asked_for() {
    let rig = rig();
    let now = SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 500_000_000);
    let authority = Authority::load_or_create(&rig.store, now).await.unwrap();
    let key = KeyPair::generate().unwrap();
    // A labor that wants to be an authority, another labor, and the Overseer.
    let mut wishes = CertificateParams::new(vec!["overseer".to_owned()]).unwrap();
    wishes.distinguished_name.push(DnType::CommonName, "root");
    wishes.subject_alt_names.push(SanType::URI("overseer://farm/l-x/9".to_owned().try_into().unwrap()));
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    let csr = wishes.serialize_request(&key).unwrap();
    let issued = authority.issue(csr.der(), &identity(), HOUR, now).unwrap();
    let der = der_of(&issued.certificate);
    let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    assert_eq!(identity_of(&der).unwrap(), (identity(), whole + HOUR));
    assert_eq!(issued.not_after, whole + HOUR);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!certificate.is_ca());
    assert_eq!(certificate.subject().to_string(), format!("CN={}", identity().labor));
    assert_eq!(certificate.validity().not_before.timestamp(), 1_800_000_000 - 86_400);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
    let other = authority.issue(csr.der(), &identity(), HOUR, now).unwrap();
    assert_ne!(other.certificate, issued.certificate, "no two serial numbers are alike");
    // Never longer than the authority.
    let last = authority.issue(csr.der(), &identity(), AUTHORITY_LIFE * 2, now).unwrap();
    assert_eq!(last.not_after, whole + AUTHORITY_LIFE);
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let rig = rig();
    let now = SystemTime::now();
    let authority = Authority::load_or_create(&rig.store, now).await.unwrap();
    let good = request(&KeyPair::generate().unwrap());
    let mut wrong_signature = good.clone();
    *wrong_signature.last_mut().unwrap() ^= 1;
    let mut swapped = good.clone();
    let other = request(&KeyPair::generate().unwrap());
    swapped[..200].copy_from_slice(&other[..200]);
    let trailing = [&good[..], b"x"].concat();
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}", "A".repeat(64)).into_bytes();
    let bad = [
        vec![],
        vec![0x30],
        good[..100].to_vec(),
        wrong_signature,
        swapped,
        trailing,
        pem,
        vec![0x30; 20_000],
    ];
    for (index, csr) in bad.iter().enumerate() {
        let refused = authority.issue(csr, &identity(), HOUR, now);
        assert!(matches!(refused, Err(AuthorityError::BadRequest(_))), "{index}: {refused:?}");
    }
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        authority.issue(&request(&key), &identity(), HOUR, now).unwrap();
    }
}

#[tokio::test]
async fn other_certificates_name_no_labor() {
    let rig = rig();
    let now = SystemTime::now();
    let authority = Authority::load_or_create(&rig.store, now).await.unwrap();
    assert_eq!(identity_of(authority.der()), Err(CertificateError::Uris(0)));
    let server = authority.server_identity(&[], HOUR, now).unwrap();
    assert_eq!(identity_of(&der_of(&server.certificate)), Err(CertificateError::Uris(0)));
    let uri = |text: &str| SanType::URI(text.to_owned().try_into().unwrap());
    let sign = |names: Vec<SanType>| {
        let mut params = leaf("x");
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    };
    let ours = identity().to_uri();
    assert!(identity_of(&sign(vec![uri(&ours)])).is_ok());
    assert_eq!(identity_of(&sign(vec![uri(&ours), uri("https://x")])), Err(CertificateError::Uris(2)));
    assert!(matches!(identity_of(&sign(vec![uri("https://x")])), Err(CertificateError::Identity(_))));
    for bad in [&b""[..], b"x", &[authority.der().as_ref(), b"x"].concat()] {
        assert!(matches!(identity_of(bad), Err(CertificateError::Unreadable(_))));
    }
}

#[tokio::test]
async fn a_damaged_authority_is_not_replaced() {
    let rig = rig();
    let now = SystemTime::now();
    let good = Authority::load_or_create(&rig.store, now).await.unwrap();
    let kept = |certificate: &str, key: &str| {
        serde_json::json!({"certificate": certificate, "key": key}).to_string().into_bytes()
    };
    let other = KeyPair::generate().unwrap().serialize_pem();
    let server = good.server_identity(&[], HOUR, now).unwrap();
    let bad = [
        b"secret".to_vec(),
        kept("", ""),
        kept(good.certificate(), "x"),
        kept(good.certificate(), &other),
        kept(&server.certificate, server.key.expose()),
    ];
    for value in bad {
        rig.store.transact(Transaction::new().put(KEY, value.clone())).await.unwrap();
        let error = Authority::load_or_create(&rig.store, now).await.unwrap_err();
        assert!(matches!(error, AuthorityError::Damaged(_)), "{error}");
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("PRIVATE"), "{error}");
        assert_eq!(rig.store.get(KEY).await.unwrap().unwrap().value, value);
    }
}

#[tokio::test]
async fn a_labor_and_a_listener_meet_over_tls() {
    let rig = rig();
    let now = SystemTime::now();
    let authority = Authority::load_or_create(&rig.store, now).await.unwrap();
    let names = ["node.example".to_owned(), "10.1.2.3".to_owned(), "::1".to_owned(), "overseer".to_owned()];
    let server = authority.server_identity(&names, HOUR, now).unwrap();
    assert!(!format!("{server:?}").contains("PRIVATE"));
    let key = KeyPair::generate().unwrap();
    let issued = authority.issue(&request(&key), &identity(), HOUR, now).unwrap();
    for name in ["overseer", "node.example", "10.1.2.3", "::1"] {
        let peer = handshake(&authority, &server, &issued.certificate, &key, name).unwrap();
        assert_eq!(identity_of(&peer).unwrap().0, identity());
    }
    assert!(handshake(&authority, &server, &issued.certificate, &key, "other.example").is_err());
    // The other way round neither may be what it is not.
    let server_key = KeyPair::from_pem(server.key.expose()).unwrap();
    assert!(handshake(&authority, &server, &server.certificate, &server_key, "overseer").is_err());
    let stranger = rig_authority(now).await;
    let foreign = stranger.issue(&request(&key), &identity(), HOUR, now).unwrap();
    assert!(handshake(&authority, &server, &foreign.certificate, &key, "overseer").is_err());
    let late = authority.issue(&request(&key), &identity(), HOUR, now - 2 * HOUR).unwrap();
    assert!(handshake(&authority, &server, &late.certificate, &key, "overseer").is_err());
    for bad in ["", "a b", "a..b", "é", &"a".repeat(64), "*", "a/b"] {
        let refused = authority.server_identity(&[bad.to_owned()], HOUR, now);
        assert!(matches!(refused, Err(AuthorityError::BadName(_))), "{bad:?}");
    }
}

async fn rig_authority(now: SystemTime) -> Arc<Authority> {
    Authority::load_or_create(&rig().store, now).await.unwrap()
}

/// The client's certificate as the server sees it.
fn handshake(
    authority: &Authority,
    server: &ServerIdentity,
    certificate: &str,
    key: &KeyPair,
    name: &str,
) -> Result<CertificateDer<'static>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    let server_config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![der_of(&server.certificate)],
            PrivateKeyDer::from_pem_slice(server.key.expose().as_bytes()).unwrap(),
        )?;
    let client_config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![der_of(certificate)],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )?;
    let mut server = ServerConnection::new(Arc::new(server_config))?;
    let mut client = ClientConnection::new(Arc::new(client_config), name.to_owned().try_into().unwrap())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok(server.peer_certificates().unwrap()[0].clone().into_owned())
}

#[tokio::test]
async fn one_authority_takes_the_place_of_another_step_by_step() {
    let rig = rig();
    let now = SystemTime::now();
    let first = Authorities::load_or_create(&rig.store, now).await.unwrap();
    assert_eq!((first.stage(), first.bundle()), (Stage::Settled, first.labors().certificate()));
    let key = KeyPair::generate().unwrap();
    let shown = |authorities: &Authorities| {
        let issued = authorities.labors().issue(&request(&key), &identity(), HOUR, now).unwrap();
        der_of(&issued.certificate)
    };
    let (old, owner) = (shown(&first), first.owner());

    let introduced = first.advance(&rig.store, now).await.unwrap();
    assert_eq!(introduced.stage(), Stage::Introduced);
    let new = shown(&introduced);
    assert_eq!(introduced.listeners().name(), first.labors().name());
    assert_ne!(introduced.labors().name(), first.labors().name());
    assert!(introduced.trusts(&old) && introduced.trusts(&new));
    assert!(introduced.is_newest(&new) && !introduced.is_newest(&old));
    assert_eq!(introduced.bundle().matches("BEGIN CERTIFICATE").count(), 2);
    let too_late = first.advance(&rig.store, now).await;
    assert!(matches!(too_late, Err(AuthorityError::Changed)));

    // A process that is started in between goes on from there.
    let again = Authorities::load_or_create(&rig.store, now).await.unwrap();
    assert_eq!((again.stage(), again.bundle()), (Stage::Introduced, introduced.bundle()));
    let switched = again.advance(&rig.store, now).await.unwrap();
    assert_eq!(switched.stage(), Stage::Switched);
    assert_eq!(switched.listeners().name(), introduced.labors().name());
    assert!(switched.trusts(&old) && switched.trusts(&new) && switched.is_newest(&new));

    let settled = switched.advance(&rig.store, now).await.unwrap();
    assert_eq!((settled.stage(), settled.bundle()), (Stage::Settled, introduced.labors().certificate()));
    assert!(!settled.trusts(&old) && settled.trusts(&new));
    assert!([introduced, switched, settled].iter().all(|one| one.owner() == owner), "nodes are ours still");
}

#[tokio::test]
async fn clients_meet_the_old_one_until_the_linger_is_over_whatever_labors_trust() {
    let rig = rig();
    let now = SystemTime::now();
    let settled = Authorities::load_or_create(&rig.store, now).await.unwrap();
    assert_eq!(settled.clients_until_ms(), None);
    let old = settled.clients().certificate().to_owned();
    let mut at = settled.introduce(&rig.store, HOUR, now).await.unwrap();
    for _ in 0..2 {
        assert_eq!(at.clients().certificate(), old);
        at = at.advance(&rig.store, now).await.unwrap();
    }
    // Over for labors, and not yet for clients.
    assert_eq!((at.stage(), at.clients_until_ms()), (Stage::Settled, Some(millis(now + HOUR))));
    assert_eq!(at.clients().certificate(), old);
    assert!(!at.bundle().contains(&old) && !at.trusts(settled.clients().der()));
    assert!(at.clients_bundle().contains(&old) && at.clients_bundle().contains(at.bundle()));
    let later = Authorities::load_or_create(&rig.store, now + HOUR).await.unwrap();
    assert_eq!(later.clients().certificate(), later.listeners().certificate());
    let ended = at.end_linger(&rig.store, now).await.unwrap();
    assert_eq!((ended.clients_until_ms(), ended.clients_bundle()), (None, ended.bundle()));
    // Not longer than the old one is good, and not at all with none.
    let long = ended.introduce(&rig.store, HOUR * 24 * 365 * 50, now).await.unwrap();
    assert_eq!(long.clients_until_ms(), Some(millis(ended.listeners().not_after())));
}
