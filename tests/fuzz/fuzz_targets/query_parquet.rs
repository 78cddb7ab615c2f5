#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| chaff_fuzz_targets::query_parquet::run(data));
