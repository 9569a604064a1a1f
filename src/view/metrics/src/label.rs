//! The values of labels.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use std::fmt::{self, Write};

/// The value of a label. The library writes values as they are, so this one escapes what ends a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label<'a>(pub(crate) &'a str);

impl EncodeLabelValue for Label<'_> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['\\', '"', '\n']) {
            let end = part.len() - usize::from(part.ends_with(['\\', '"', '\n']));
            encoder.write_str(&part[..end])?;
            match &part[end..] {
                "" => {}
                "\n" => encoder.write_str("\\n")?,
                special => write!(encoder, "\\{special}")?,
            }
        }
        Ok(())
    }
}
