//! TLS, by rustls: certificates from files, and one connection's sealing and opening.
//!
//! Versions 1.2 and 1.3, with rustls's own choice of ciphers. With a file of authorities clients have to show a
//! certificate of theirs. SIGHUP reads the files anew, for connections that come from then on; files that are
//! wrong are told of and change nothing.

use crate::files;
use crate::shared::lock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Where the certificates are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The server's chain, its own certificate first.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// The authorities that clients' certificates have to be of.
    pub(crate) client_ca: Option<PathBuf>,
}

/// What new connections are taken in with.
#[derive(Debug)]
pub(crate) struct Acceptor {
    files: Files,
    config: Mutex<Arc<ServerConfig>>,
}

impl Acceptor {
    /// Reads the files. The error is a message for a human.
    pub(crate) fn open(files: Files) -> Result<Acceptor, String> {
        let config = Mutex::new(Arc::new(read(&files)?));
        Ok(Acceptor { files, config })
    }

    /// Reads them anew; if one is wrong, all stays as it was.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let config = Arc::new(read(&self.files)?);
        *lock(&self.config) = config;
        Ok(())
    }

    /// One more connection.
    pub(crate) fn begin(&self) -> Result<Tls, rustls::Error> {
        let mut connection = ServerConnection::new(lock(&self.config).clone())?;
        // The loop bounds what it sends; here nothing may be dropped.
        connection.set_buffer_limit(None);
        Ok(Tls(connection))
    }
}

fn read(files: &Files) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&files::read(&files.key)?)
        .map_err(|error| format!("{}: {error}", files.key.display()))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let mut authorities = RootCertStore::empty();
            for certificate in certificates(path)? {
                authorities.add(certificate).map_err(|error| wrong(&error))?;
            }
            let authorities = Arc::new(authorities);
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider)
                .build()
                .map_err(|error| wrong(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let wrong = |error| format!("{}, {}: {error}", files.cert.display(), files.key.display());
    builder.with_single_cert(chain, key).map_err(wrong)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&files::read(path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{}: no certificate", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// One connection's.
#[derive(Debug)]
pub(crate) struct Tls(ServerConnection);

impl Tls {
    /// Opens what has come in; what it said is appended to `plain`. True: the peer says no more.
    pub(crate) fn open(
        &mut self,
        mut sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        let mut ended = false;
        while !sealed.is_empty() && !ended {
            // From memory: it cannot fail, but for a peer that sends on after its end.
            let Ok(1..) = self.0.read_tls(&mut sealed) else { break };
            let state = self.0.process_new_packets()?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            let room = plain.get_mut(start..).unwrap_or_default();
            // Exactly as much as there is.
            let read = if room.is_empty() { 0 } else { self.0.reader().read(room).unwrap_or(0) };
            plain.truncate(start + read);
            ended = state.peer_has_closed();
        }
        Ok(ended)
    }

    /// Seals bytes, for [`take_unsent`](Tls::take_unsent).
    pub(crate) fn seal(&mut self, plain: &[u8]) {
        // Into memory without a limit: it cannot fail.
        let _ = self.0.writer().write_all(plain);
    }

    /// True if there is something to send.
    pub(crate) fn has_to_send(&self) -> bool {
        self.0.wants_write()
    }

    /// What there is to send.
    pub(crate) fn take_unsent(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            // Into memory: it cannot fail.
            let Ok(1..) = self.0.write_tls(&mut bytes) else { break };
        }
        bytes
    }

    /// The last that there is to send.
    pub(crate) fn farewell(&mut self) -> Vec<u8> {
        self.0.send_close_notify();
        self.take_unsent()
    }
}
