/* What the files of segmentation share. */
#ifndef CPU_X86_SEGMENT_INTERNAL_H
#define CPU_X86_SEGMENT_INTERNAL_H

#include "cpu/vcpu.h"

/* Is [off, off+len) inside the limit of s, which grows down if it is that kind? */
bool seg_in_limit(const struct seg *s, uint64_t off, unsigned len);

/* Is [gva, gva+len) canonical on both ends? */
bool range_is_canonical(gva_t gva, unsigned len);

#endif
