//! Code that several benches share: one request, and the compared services.
// Each bench is a separate program, and uses only a part of this module.
#![allow(dead_code)]

pub mod by_hand;
pub mod keep;
pub mod peers;
pub mod request;
