//! Errors of TLS, in words.

use rustls::{AlertDescription, CertificateError, Error};

/// Says why a TLS connection failed, for someone who does not know the standard.
pub fn in_words(error: Error) -> String {
    match error {
        Error::InvalidCertificate(certificate) => {
            let what = match certificate {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => "is signed by no CA that is trusted here",
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "is for other names than the address that was dialled"
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "is not valid yet, by the clock of this machine"
                }
                other => return format!("the certificate of the other end is refused: {other}"),
            };
            format!("the certificate of the other end {what}")
        }
        Error::NoCertificatesPresented => "the other end has shown no certificate, and one is required".to_owned(),
        Error::AlertReceived(alert) => {
            let what = match alert {
                AlertDescription::UnknownCA | AlertDescription::DecryptError => "it trusts no CA that has signed this end's certificate",
                AlertDescription::CertificateRequired => "it requires a certificate of this end",
                AlertDescription::CertificateExpired => "this end's certificate has expired or is not valid yet, by its clock",
                AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => "it does not accept this end's certificate",
                AlertDescription::HandshakeFailure => "it speaks no TLS there, or no version of it that this end speaks",
                other => return format!("the other end has refused TLS: {other:?}"),
            };
            format!("the other end has refused TLS: {what}")
        }
        Error::InvalidMessage(_) => "the other end does not speak TLS".to_owned(),
        other => other.to_string(),
    }
}
