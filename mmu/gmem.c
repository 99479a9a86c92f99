#include "mmu/gmem.h"

#include <stdlib.h>

#include "mmu/npt.h"
#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/base/rcu.h"

#define GPA_LIMIT (1ull << (NPT_GFN_BITS + PAGE_SHIFT))

int gmem_init(struct gmem *gm)
{
	memset(gm, 0, sizeof(*gm));
	gm->slots = calloc(1, sizeof(*gm->slots));
	if (!gm->slots)
		return -ENOMEM;
	return npt_create(&gm->npt);
}

void gmem_fini(struct gmem *gm)
{
	npt_destroy(gm->npt);
	free(gm->slots);
	free(gm->queues);
	memset(gm, 0, sizeof(*gm));
}

int gmem_add_slot(struct gmem *gm, const struct memslot *slot)
{
	struct memslots *old = gm->slots, *new;
	unsigned at = 0;

	if ((slot->gpa | slot->size | slot->hva) & ~PAGE_MASK || !slot->size ||
	    slot->gpa > GPA_LIMIT || slot->size > GPA_LIMIT - slot->gpa)
		return -EINVAL;
	for (unsigned i = 0; i < old->count; i++) {
		const struct memslot *s = &old->slot[i];

		if (slot->gpa < s->gpa + s->size && s->gpa < slot->gpa + slot->size)
			return -EEXIST;
		if (s->gpa < slot->gpa)
			at = i + 1;
	}
	new = malloc(sizeof(*new) + (old->count + 1) * sizeof(new->slot[0]));
	if (!new)
		return -ENOMEM;
	new->count = old->count + 1;
	memcpy(new->slot, old->slot, at * sizeof(new->slot[0]));
	new->slot[at] = *slot;
	memcpy(&new->slot[at + 1], &old->slot[at], (old->count - at) * sizeof(new->slot[0]));
	rcu_publish(gm->slots, new);
	synchronize_rcu();
	free(old);
	return 0;
}

int gmem_set_queues(struct gmem *gm, struct shootdown_queue **queues, unsigned n)
{
	gm->queues = calloc(n, sizeof(*queues));
	if (!gm->queues)
		return -ENOMEM;
	memcpy(gm->queues, queues, n * sizeof(*queues));
	gm->nqueues = n;
	return 0;
}

static const struct memslot *find_slot(const struct memslots *slots, gpa_t gpa)
{
	unsigned lo = 0, hi = slots->count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct memslot *s = &slots->slot[mid];

		if (gpa < s->gpa)
			hi = mid;
		else if (gpa - s->gpa >= s->size)
			lo = mid + 1;
		else
			return s;
	}
	return NULL;
}

uint64_t gmem_translate(struct gmem *gm, gfn_t gfn)
{
	uint64_t pte = npt_lookup(gm->npt, gfn);
	const struct memslot *s;
	gpa_t gpa = gfn << PAGE_SHIFT;

	if (likely(pte))
		return pte;
	/* The shift above loses bits of a frame number that no slot can hold. */
	s = gfn >> NPT_GFN_BITS ? NULL : find_slot(rcu_deref(gm->slots), gpa);
	if (!s)
		return 0;
	pte = (s->hva + (gpa - s->gpa)) | NPT_PRESENT;
	if (s->flags & MEMSLOT_READONLY)
		pte |= NPT_READONLY;
	if (npt_install(gm->npt, gfn, pte)) {
		log_err("out of memory for the map of guest memory");
		return 0;
	}
	return pte;
}

void *gmem_ptr(struct gmem *gm, gpa_t gpa, uint64_t len, bool write)
{
	const struct memslot *s = find_slot(rcu_deref(gm->slots), gpa);

	if (!s || len > s->size - (gpa - s->gpa) || (write && (s->flags & MEMSLOT_READONLY)))
		return NULL;
	return (void *)(s->hva + (gpa - s->gpa));
}

void gmem_wrote(struct gmem *gm, gpa_t gpa, uint64_t len)
{
	if (!len)
		return;
	for (gfn_t gfn = gpa >> PAGE_SHIFT; gfn <= (gpa + len - 1) >> PAGE_SHIFT; gfn++)
		gmem_code_written(gm, gfn);
}

/* The one plain copy from or to memory on which guests race, by a name that tests/tsan.supp knows.
 */
static never_inline void copy_guest(void *to, const void *from, uint64_t n)
{
	memcpy(to, from, n);
}

/* Two passes: the first only checks that all of the range is RAM. */
static int for_range(struct gmem *gm, gpa_t gpa, void *buf, uint64_t len, bool write)
{
	const struct memslots *slots = rcu_deref(gm->slots);
	uint64_t done;

	for (int pass = 0; pass < 2; pass++) {
		for (done = 0; done < len;) {
			const struct memslot *s = find_slot(slots, gpa + done);
			uint64_t n;
			void *p;

			if (!s)
				return -EFAULT;
			n = MIN(len - done, s->gpa + s->size - (gpa + done));
			p = (void *)(s->hva + (gpa + done - s->gpa));
			if (pass && write && !(s->flags & MEMSLOT_READONLY)) {
				copy_guest(p, (char *)buf + done, n);
				gmem_wrote(gm, gpa + done, n);
			} else if (pass && !write) {
				copy_guest((char *)buf + done, p, n);
			}
			done += n;
		}
	}
	return 0;
}

int gmem_read(struct gmem *gm, gpa_t gpa, void *buf, uint64_t len)
{
	return for_range(gm, gpa, buf, len, false);
}

int gmem_write(struct gmem *gm, gpa_t gpa, const void *buf, uint64_t len)
{
	return for_range(gm, gpa, (void *)buf, len, true);
}

/* --- code frames -------------------------------------------------------------------------- */

#define WORD(state, gen) ((uint32_t)(gen) << 2 | (state))
#define WORD_GEN(word)	 ((word) >> 2)

static void post_all(struct gmem *gm, enum shootdown_kind kind, gfn_t gfn)
{
	for (unsigned i = 0; i < gm->nqueues; i++)
		shootdown_post(gm->queues[i], kind, gfn);
}

uint32_t gmem_code_word(struct gmem *gm, gfn_t gfn)
{
	uint32_t *p = npt_code_word(gm->npt, gfn);

	return p ? atomic_load_seq(p) : 0;
}

uint32_t gmem_code_protect(struct gmem *gm, gfn_t gfn)
{
	uint32_t *p = npt_code_word(gm->npt, gfn);
	uint32_t word;

	if (!p)
		return 0;
	word = atomic_load_seq(p);
	while (code_word_state(word) == CODE_NONE) {
		uint32_t next = WORD(CODE_PROTECTING, WORD_GEN(word) + 1);

		if (atomic_cas_seq(p, &word, next))
			word = next;
	}
	/*
	 * Also when another VCPU made it PROTECTING: its posts may not all be out yet, and the
	 * caller is about to wait for the acknowledgement of posts that are.
	 */
	if (code_word_state(word) == CODE_PROTECTING)
		post_all(gm, SHOOTDOWN_PROTECT, gfn);
	return word;
}

bool gmem_code_stabilise(struct gmem *gm, gfn_t gfn, uint32_t word)
{
	uint32_t *p = npt_code_word(gm->npt, gfn);

	return p && code_word_state(word) == CODE_PROTECTING &&
	       atomic_cas_seq(p, &word, WORD(CODE_STABLE, WORD_GEN(word)));
}

bool gmem_code_written(struct gmem *gm, gfn_t gfn)
{
	uint32_t *p = npt_code_word(gm->npt, gfn);
	uint32_t word, dropping;

	if (!p)
		return false;
	/*
	 * Full order between the caller's store and this load: either we see the state that a
	 * decoder set, or the decoder reads the bytes after our store (it sets the state first).
	 */
	atomic_fence_seq();
	word = atomic_load_seq(p);
	do {
		if (code_word_state(word) == CODE_NONE)
			return false;
		dropping = WORD(CODE_DROPPING, WORD_GEN(word) + 1);
		if (code_word_state(word) == CODE_DROPPING)
			break;
	} while (!atomic_cas_seq(p, &word, dropping));
	/*
	 * Also when another storer made it DROPPING: its posts may not all be out yet, and our
	 * caller will take acknowledgements from now on for proof that its own store was heard of.
	 */
	post_all(gm, SHOOTDOWN_DROP_CODE, gfn);
	/*
	 * Who sees NONE stores without a word. By then everyone has been told of the end of the
	 * generation before, so that an acknowledgement of anything later covers it.
	 */
	if (code_word_state(word) != CODE_DROPPING)
		atomic_cas_seq(p, &dropping, WORD(CODE_NONE, WORD_GEN(dropping)));
	return true;
}
