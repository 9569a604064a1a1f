//! The type of a file, by the end of its name.

/// A type of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The value of `Content-Type`.
    pub(crate) name: &'static str,
    /// Whether it shrinks when it is compressed, so that a compressed copy may stand beside it.
    pub(crate) shrinks: bool,
}

const fn text(name: &'static str) -> Kind {
    Kind { name, shrinks: true }
}

const fn packed(name: &'static str) -> Kind {
    Kind { name, shrinks: false }
}

/// Endings in small letters, sorted.
const KINDS: &[(&str, Kind)] = &[
    ("7z", packed("application/x-7z-compressed")),
    ("aac", packed("audio/aac")),
    ("apng", packed("image/apng")),
    ("atom", text("application/atom+xml; charset=utf-8")),
    ("avif", packed("image/avif")),
    ("bmp", text("image/bmp")),
    ("css", text("text/css; charset=utf-8")),
    ("csv", text("text/csv; charset=utf-8")),
    ("doc", text("application/msword")),
    ("docx", packed("application/vnd.openxmlformats-officedocument.wordprocessingml.document")),
    ("eot", text("application/vnd.ms-fontobject")),
    ("epub", packed("application/epub+zip")),
    ("flac", packed("audio/flac")),
    ("geojson", text("application/geo+json")),
    ("gif", packed("image/gif")),
    ("gz", packed("application/gzip")),
    ("heic", packed("image/heic")),
    ("htm", text("text/html; charset=utf-8")),
    ("html", text("text/html; charset=utf-8")),
    ("ico", text("image/x-icon")),
    ("ics", text("text/calendar; charset=utf-8")),
    ("jpeg", packed("image/jpeg")),
    ("jpg", packed("image/jpeg")),
    ("js", text("text/javascript; charset=utf-8")),
    ("json", text("application/json")),
    ("jsonld", text("application/ld+json")),
    ("jxl", packed("image/jxl")),
    ("m3u8", text("application/vnd.apple.mpegurl")),
    ("m4a", packed("audio/mp4")),
    ("m4v", packed("video/mp4")),
    ("map", text("application/json")),
    ("md", text("text/markdown; charset=utf-8")),
    ("mjs", text("text/javascript; charset=utf-8")),
    ("mov", packed("video/quicktime")),
    ("mp3", packed("audio/mpeg")),
    ("mp4", packed("video/mp4")),
    ("mpeg", packed("video/mpeg")),
    ("odt", packed("application/vnd.oasis.opendocument.text")),
    ("oga", packed("audio/ogg")),
    ("ogg", packed("audio/ogg")),
    ("ogv", packed("video/ogg")),
    ("opus", packed("audio/ogg")),
    ("otf", text("font/otf")),
    ("pdf", packed("application/pdf")),
    ("png", packed("image/png")),
    ("pptx", packed("application/vnd.openxmlformats-officedocument.presentationml.presentation")),
    ("rss", text("application/rss+xml; charset=utf-8")),
    ("rtf", text("application/rtf")),
    ("svg", text("image/svg+xml")),
    ("svgz", packed("image/svg+xml")),
    ("tar", text("application/x-tar")),
    ("tif", packed("image/tiff")),
    ("tiff", packed("image/tiff")),
    ("ts", packed("video/mp2t")),
    ("ttf", text("font/ttf")),
    ("txt", text("text/plain; charset=utf-8")),
    ("vtt", text("text/vtt; charset=utf-8")),
    ("wasm", text("application/wasm")),
    ("wav", packed("audio/wav")),
    ("weba", packed("audio/webm")),
    ("webm", packed("video/webm")),
    ("webmanifest", text("application/manifest+json")),
    ("webp", packed("image/webp")),
    ("woff", packed("font/woff")),
    ("woff2", packed("font/woff2")),
    ("xhtml", text("application/xhtml+xml; charset=utf-8")),
    ("xls", text("application/vnd.ms-excel")),
    ("xlsx", packed("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")),
    ("xml", text("application/xml; charset=utf-8")),
    ("yaml", text("application/yaml")),
    ("yml", text("application/yaml")),
    ("zip", packed("application/zip")),
];

/// What a file of another ending is.
const UNKNOWN: Kind = packed("application/octet-stream");

/// The type of a file of this name.
pub(crate) fn of(name: &std::path::Path) -> Kind {
    let ending = name.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    KINDS.binary_search_by_key(&ending.as_str(), |(ending, _)| ending).map_or(UNKNOWN, |at| KINDS[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn endings_are_sorted_and_found() {
        assert!(KINDS.is_sorted_by(|(before, _), (after, _)| before < after));
        assert_eq!(of(Path::new("a/b.HTML")).name, "text/html; charset=utf-8");
        assert_eq!(of(Path::new("a.tar.gz")).name, "application/gzip");
        assert_eq!(of(Path::new("html")), UNKNOWN);
        assert_eq!(of(Path::new("a.html/b")), UNKNOWN);
    }
}
