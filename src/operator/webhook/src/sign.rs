//! Signatures of Standard Webhooks, version 1.

use bailiwick_targets::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The value of the header `webhook-signature`: for each secret `v1,` and the base64 of HMAC-SHA256 over the id, the time in seconds
/// since 1970 and the body, with dots between them.
#[must_use]
pub fn signatures(secrets: &[Secret], id: &str, seconds: u64, body: &str) -> String {
    let sign = |secret: &Secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("a key may have any length");
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("a secret");
        let other: Secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().expect("a secret");
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "{\"test\": 2432232314}");
        // The example of the standard's reference libraries.
        let golden = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signatures(std::slice::from_ref(&secret), id, 1_614_265_330, body), golden);
        let both = signatures(&[secret, other], id, 1_614_265_330, body);
        assert!(both.starts_with(golden) && both.split(' ').count() == 2, "{both}");
    }
}
