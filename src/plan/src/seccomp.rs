//! TEMPORARY by the lead so that others compile; the author of the seccomp module overwrites this file.
pub struct Instruction { pub code: u16, pub jt: u8, pub jf: u8, pub k: u32 }
pub fn filter(_p: bailiwick_types::Profile) -> Vec<Instruction> { vec![Instruction{code:6,jt:0,jf:0,k:0x7fff0000}] }
