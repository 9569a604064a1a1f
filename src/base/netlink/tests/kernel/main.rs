//! What the kernel makes of this crate's messages, in network namespaces of the tests' own.

mod namespace;
mod route;
