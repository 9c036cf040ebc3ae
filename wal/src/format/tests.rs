//! What is encoded comes back, and every flipped bit and torn block of it is noticed.

use proptest::prelude::*;

use super::*;

const PLACE: Place =
    Place { database: DatabaseId(0xfeed), segment: SegmentId(3), offset: 5 * BLOCK };

fn header() -> SegmentHeader {
    SegmentHeader {
        database: DatabaseId(u128::MAX - 5),
        segment: SegmentId(9),
        capacity: 64 << 20,
        recycled: true,
        cut: true,
        start: Lsn::new(3, 1),
        previous: SegmentId(8),
        previous_end: 12 * BLOCK,
        previous_lsn: Lsn::new(2, 77),
        previous_crc: 0xdead_beef,
        first_batch: 1000,
        durable_batch: 999,
    }
}

fn block(header: &SegmentHeader) -> Vec<u8> {
    let mut buffer = IoBuffer::new();
    header.encode(&mut buffer);
    buffer.to_vec()
}

fn batch(kind: BatchKind, records: &[Vec<u8>]) -> (Vec<u8>, HeaderCrc) {
    let mut buffer = IoBuffer::new();
    let mut writer = BatchWriter::begin(&mut buffer);
    records.iter().for_each(|record| writer.record(record));
    let says = BatchSays {
        kind,
        sequence: 41,
        first: Lsn::new(2, 7),
        durable_batch: 39,
        durable: Lsn::new(2, 5),
        previous_crc: HeaderCrc(17),
    };
    let crc = writer.finish(&says, &PLACE);
    (buffer.to_vec(), crc)
}

#[test]
fn a_segment_header_comes_back_as_it_was() {
    assert_eq!(SegmentHeader::decode(&block(&header())), HeaderBlock::Valid(header()));
    assert_eq!(block(&header()).len(), BLOCK_BYTES);
}

#[test]
fn every_flipped_bit_of_a_segment_header_is_noticed() {
    let whole = block(&header());
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let damaged = SegmentHeader::decode(&bytes);
        assert!(!matches!(damaged, HeaderBlock::Valid(_) | HeaderBlock::Blank), "byte {at}");
    }
}

#[test]
fn a_segment_header_torn_anywhere_is_bad_or_blank_but_never_foreign() {
    let whole = block(&header());
    for at in 0..=100 {
        let mut head = whole.clone();
        head[at..].fill(0);
        let expected = if at == 0 { 0 } else { 1 };
        match SegmentHeader::decode(&head) {
            HeaderBlock::Blank => assert_eq!(expected, 0),
            HeaderBlock::Bad(_) => assert_eq!(expected, 1),
            other => panic!("torn at {at}: {other:?}"),
        }
        assert!(matches!(
            SegmentHeader::decode(&whole[..at]),
            HeaderBlock::Blank | HeaderBlock::Bad(_)
        ));
    }
}

#[test]
fn a_newer_format_is_told_whatever_follows_its_number() {
    let mut bytes = block(&header());
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    assert_eq!(SegmentHeader::decode(&bytes), HeaderBlock::TooNew(7));
    assert_eq!(SegmentHeader::decode(&[b'x'; BLOCK_BYTES]), HeaderBlock::Foreign);
}

#[test]
fn every_flipped_bit_of_a_batch_is_noticed_padding_included() {
    let (whole, _) = batch(BatchKind::Records, &[vec![1; 10], vec![], vec![2; 5000]]);
    assert_eq!(whole.len(), 2 * BLOCK_BYTES);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let noticed = match BatchHeader::decode(&bytes, &PLACE) {
            None => true,
            Some((header, _)) => !header.covers(&bytes[BATCH_HEADER_BYTES..], &PLACE),
        };
        assert!(noticed, "byte {at}");
        // The header does not depend on the payload: it still bears witness.
        if at >= BATCH_HEADER_BYTES {
            assert!(BatchHeader::decode(&bytes, &PLACE).is_some());
        }
    }
}

#[test]
fn a_batch_counts_at_its_own_place_only() {
    let (bytes, _) = batch(BatchKind::Records, &[vec![1; 10]]);
    for place in [
        Place { database: DatabaseId(0xfeee), ..PLACE },
        Place { segment: SegmentId(4), ..PLACE },
        Place { offset: 6 * BLOCK, ..PLACE },
    ] {
        assert!(BatchHeader::decode(&bytes, &place).is_none());
    }
}

#[test]
fn marks_carry_their_kind_and_no_records() {
    for kind in [BatchKind::Mark, BatchKind::Clean, BatchKind::Open] {
        let (bytes, crc) = batch(kind, &[]);
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let (header, link) = BatchHeader::decode(&bytes, &PLACE).unwrap();
        assert_eq!((header.kind, header.records, header.next()), (kind, 0, Some(Lsn::new(2, 7))));
        assert_eq!(link, crc);
        assert!(header.covers(&bytes[BATCH_HEADER_BYTES..], &PLACE));
    }
    assert!(BatchHeader::decode(&batch(BatchKind::Records, &[]).0, &PLACE).is_none());
    assert!(BatchHeader::decode(&batch(BatchKind::Mark, &[vec![]]).0, &PLACE).is_none());
}

proptest! {
    #[test]
    fn records_come_back_as_they_went_in(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..40)
    ) {
        let (bytes, crc) = batch(BatchKind::Records, &records);
        let payload: u64 = records.iter().map(|record| framed_bytes(record.len())).sum();
        prop_assert_eq!(bytes.len() as u64, batch_bytes(payload));
        let (header, link) = BatchHeader::decode(&bytes, &PLACE).unwrap();
        prop_assert_eq!(link, crc);
        prop_assert_eq!(header.batch_bytes(), bytes.len() as u64);
        prop_assert_eq!((header.sequence, header.first), (41, Lsn::new(2, 7)));
        prop_assert_eq!((header.durable_batch, header.durable), (39, Lsn::new(2, 5)));
        prop_assert_eq!(header.next(), Some(Lsn::new(2, 7 + records.len() as u64)));
        let rest = &bytes[BATCH_HEADER_BYTES..];
        prop_assert!(header.covers(rest, &PLACE));
        let mut read = Records::new(&rest[..header.payload_bytes as usize], header.records);
        for record in &records {
            prop_assert_eq!(read.next().unwrap(), &record[..]);
        }
        prop_assert!(read.next().is_none() && read.finished());
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..300), records in any::<u32>()
    ) {
        let _ = SegmentHeader::decode(&bytes);
        let _ = BatchHeader::decode(&bytes, &PLACE);
        let mut read = Records::new(&bytes, records);
        let mut seen = 0;
        for record in &mut read {
            seen += RECORD_HEADER_BYTES + record.len();
        }
        prop_assert!(seen <= bytes.len());
        let mut magic = BATCH_MAGIC.to_vec();
        magic.extend_from_slice(&bytes);
        prop_assert!(BatchHeader::decode(&magic, &PLACE).is_none());
    }

    #[test]
    fn a_header_whose_checksum_matches_by_intent_is_still_checked(
        mut bytes in prop::collection::vec(any::<u8>(), BATCH_HEADER_BYTES)
    ) {
        // As if an attacker, or a bug, had made the checksum fit.
        bytes[..4].copy_from_slice(&BATCH_MAGIC);
        let crc = header_crc(&bytes, &PLACE);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Some((header, _)) = BatchHeader::decode(&bytes, &PLACE) {
            prop_assert!(header.next().is_some() && header.durable_batch < header.sequence);
            prop_assert!(header.batch_bytes() >= BLOCK);
        }
        let mut block = vec![0; BLOCK_BYTES];
        block[..64].copy_from_slice(&bytes);
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..12].copy_from_slice(&FORMAT_NUMBER.to_le_bytes());
        let crc = segment_crc(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        if let HeaderBlock::Valid(header) = SegmentHeader::decode(&block) {
            prop_assert!(header.capacity.is_multiple_of(BLOCK) && header.start.counter() > 0);
        }
    }
}
