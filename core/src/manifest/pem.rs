//! Whether a text is PEM certificates, as far as that shows without reading them (RFC 7468).

/// Why a text is not PEM certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PemError {
    #[error("there is no '-----BEGIN CERTIFICATE-----' in it")]
    None,
    #[error("it holds a private key, which is no part of a manifest and must be replaced now that it was here")]
    PrivateKey,
    #[error("it holds a block that is not a certificate")]
    OtherLabel,
    #[error("a certificate has no '-----END CERTIFICATE-----'")]
    NoEnd,
    #[error("a certificate is not Base64")]
    NotBase64,
    #[error("a certificate is cut off, or is not one")]
    NotDer,
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END CERTIFICATE-----";

/// Checks that `text` is at least one certificate, each whole Base64 and of the length that its DER says.
pub(super) fn check(text: &str) -> Result<(), PemError> {
    let mut lines = text.lines().map(str::trim);
    let mut found = false;
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN) else {
            continue;
        };
        match label {
            "CERTIFICATE-----" => {}
            label if label.contains("PRIVATE KEY") => return Err(PemError::PrivateKey),
            _ => return Err(PemError::OtherLabel),
        }
        let mut body = String::new();
        loop {
            match lines.next() {
                Some(END) => break,
                Some(line) if !line.starts_with("-----") => body.push_str(line),
                _ => return Err(PemError::NoEnd),
            }
        }
        let der = base64(&body).ok_or(PemError::NotBase64)?;
        if !is_sequence(&der) {
            return Err(PemError::NotDer);
        }
        found = true;
    }
    if found { Ok(()) } else { Err(PemError::None) }
}

/// Base64 with its padding (RFC 4648, 4).
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if text.is_empty() || !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// Whether the bytes are one DER SEQUENCE and nothing else (X.690, 8.1.3).
fn is_sequence(der: &[u8]) -> bool {
    let [0x30, first, rest @ ..] = der else { return false };
    let (length, body) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long => {
            let count = usize::from(long & 0x7f);
            if !(1..=4).contains(&count) || rest.len() < count {
                return false;
            }
            let (length, body) = rest.split_at(count);
            (length.iter().fold(0, |n, b| n << 8 | usize::from(*b)), body)
        }
    };
    length > 0 && length == body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DER SEQUENCE of the INTEGERs 1 and 2: all that the structure asks for.
    const SMALL: &str = "-----BEGIN CERTIFICATE-----\nMAYCAQECAQI=\n-----END CERTIFICATE-----\n";

    #[test]
    fn certificates() {
        assert_eq!(check(SMALL), Ok(()));
        assert_eq!(check(&format!("# issued by us\n{SMALL}\n{SMALL}")), Ok(()));
    }

    #[test]
    fn everything_else() {
        for (text, want) in [
            ("", PemError::None),
            ("MAYCAQECAQI=", PemError::None),
            ("/etc/ssl/ca.pem", PemError::None),
            (&SMALL.replace("CERTIFICATE", "EC PRIVATE KEY"), PemError::PrivateKey),
            (&format!("{SMALL}{}", SMALL.replace("CERTIFICATE", "PRIVATE KEY")), PemError::PrivateKey),
            (&SMALL.replace("CERTIFICATE", "CERTIFICATE REQUEST"), PemError::OtherLabel),
            (&SMALL.replace("-----END CERTIFICATE-----", ""), PemError::NoEnd),
            (&format!("-----BEGIN CERTIFICATE-----\n{SMALL}"), PemError::NoEnd),
            (&SMALL.replace("AQI=", "AQI"), PemError::NotBase64),
            (&SMALL.replace("AQI=", "A*I="), PemError::NotBase64),
            (&SMALL.replace("MAYCAQECAQI=", ""), PemError::NotBase64),
            (&SMALL.replace("AYC", "AUC"), PemError::NotDer),
            (&SMALL.replace("MAY", "MQY"), PemError::NotDer),
            (&SMALL.replace("MAYCAQECAQI=", "MA=="), PemError::NotDer),
        ] {
            assert_eq!(check(text), Err(want), "{text}");
        }
    }
}
