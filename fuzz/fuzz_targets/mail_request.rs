//! Reads any bytes as what `sendmail` inside a jail sends to the server of mail on the host.

#![no_main]

use bailiwick_mail::request::{Bounds, check_recipient, read, reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bounds = Bounds { recipients: 3, size: 100 };
    match read(bytes, bounds) {
        Ok(request) => {
            assert!((1..=3).contains(&request.recipients.len()) && request.message.len() <= 100);
            assert!(!request.message.iter().any(|byte| b"\r\0".contains(byte)));
            assert!(request.recipients.iter().all(|recipient| check_recipient(recipient).is_ok()));
            // None of them is an option, and none ends a line.
            assert!(request.recipients.iter().all(|recipient| !recipient.starts_with('-') && !recipient.contains('\n')));
        }
        Err(refusal) => assert_eq!(reply(&Err(refusal)).lines().count(), 1),
    }
});
