/*
 * A card for tests: SoftHSM, which never locks and is never pulled out, with
 * the manners of a card. It is a PKCS#11 library that passes everything to the
 * one that CARD_MODULE names, except what the files in the folder CARD_DIR say:
 *
 *   tries        how many wrong PINs are left; the card locks at 0
 *   gone         the card is not in its reader
 *   gone-at-sign the card is pulled out when the next signature begins
 *   busy         another program has the card
 *   late         each signature takes a second, as that of a card that is touched late
 *   garbage      signatures are not what they should be
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong;

/* CK_FUNCTION_LIST of version 2.40: the functions in the order of the standard. */
struct list {
	unsigned char major, minor;
	void *f[68];
};
enum {
	GetFunctionList = 3, GetSlotList = 4, GetTokenInfo = 6, InitPIN = 10, SetPIN = 11, OpenSession = 12,
	Login = 18, FindObjectsInit = 26, SignInit = 42, Sign = 43
};

static struct list *real, ours;

static char *path(const char *name) {
	static char buf[4096];
	snprintf(buf, sizeof buf, "%s/%s", getenv("CARD_DIR"), name);
	return buf;
}
static int is(const char *name) { return access(path(name), F_OK) == 0; }

static int tries(void) {
	int n = 3;
	FILE *f = fopen(path("tries"), "r");
	if (f) {
		if (fscanf(f, "%d", &n) != 1) n = 0;
		fclose(f);
	}
	return n;
}
static void set_tries(int n) {
	FILE *f = fopen(path("tries"), "w");
	if (f) {
		fprintf(f, "%d\n", n);
		fclose(f);
	}
}

static ulong get_slot_list(unsigned char present, ulong *slots, ulong *n) {
	if (is("gone")) {
		*n = 0;
		return 0;
	}
	return ((ulong(*)(unsigned char, ulong *, ulong *))real->f[GetSlotList])(present, slots, n);
}
static ulong get_token_info(ulong slot, unsigned char *info) {
	ulong rv, flags;
	int left = tries();
	if (is("gone")) return 0xe0;
	rv = ((ulong(*)(ulong, unsigned char *))real->f[GetTokenInfo])(slot, info);
	if (rv) return rv;
	memcpy(&flags, info + 96, sizeof flags);
	flags &= ~0x70000UL;
	if (left < 3) flags |= 0x10000;
	if (left == 1) flags |= 0x20000;
	if (left == 0) flags |= 0x40000;
	memcpy(info + 96, &flags, sizeof flags);
	return 0;
}
static ulong open_session(ulong slot, ulong flags, void *app, void *notify, ulong *session) {
	if (is("gone")) return 0xe0;
	if (is("busy")) return 0xb1;
	return ((ulong(*)(ulong, ulong, void *, void *, ulong *))real->f[OpenSession])(slot, flags, app, notify, session);
}
static ulong login(ulong session, ulong user, unsigned char *pin, ulong len) {
	ulong rv;
	if (is("gone")) return 0x32;
	if (user == 1 && tries() == 0) return 0xa4;
	rv = ((ulong(*)(ulong, ulong, unsigned char *, ulong))real->f[Login])(session, user, pin, len);
	if (user == 1 && rv == 0xa0) set_tries(tries() - 1);
	if (user == 1 && rv == 0) set_tries(3);
	return rv;
}
static ulong init_pin(ulong session, unsigned char *pin, ulong len) {
	ulong rv = ((ulong(*)(ulong, unsigned char *, ulong))real->f[InitPIN])(session, pin, len);
	if (rv == 0) set_tries(3);
	return rv;
}
static ulong set_pin(ulong session, unsigned char *old, ulong n, unsigned char *pin, ulong len) {
	ulong rv;
	if (tries() == 0) return 0xa4;
	rv = ((ulong(*)(ulong, unsigned char *, ulong, unsigned char *, ulong))real->f[SetPIN])(session, old, n, pin, len);
	if (rv == 0xa0) set_tries(tries() - 1);
	if (rv == 0) set_tries(3);
	return rv;
}
static ulong find_objects_init(ulong session, void *template, ulong n) {
	if (is("gone")) return 0x32;
	return ((ulong(*)(ulong, void *, ulong))real->f[FindObjectsInit])(session, template, n);
}
static ulong sign_init(ulong session, void *mechanism, ulong key) {
	if (is("gone-at-sign")) {
		FILE *f;
		char from[4096];
		strcpy(from, path("gone-at-sign"));
		remove(from);
		f = fopen(path("gone"), "w");
		if (f) fclose(f);
	}
	if (is("gone")) return 0x32;
	return ((ulong(*)(ulong, void *, ulong))real->f[SignInit])(session, mechanism, key);
}
static ulong sign(ulong session, unsigned char *data, ulong n, unsigned char *sig, ulong *len) {
	ulong rv;
	if (sig && is("late")) sleep(1);
	rv = ((ulong(*)(ulong, unsigned char *, ulong, unsigned char *, ulong *))real->f[Sign])(session, data, n, sig, len);
	if (rv == 0 && sig && is("garbage")) sig[5] ^= 1;
	return rv;
}

ulong C_GetFunctionList(struct list **out) {
	if (!real) {
		ulong (*get)(struct list **);
		void *lib = dlopen(getenv("CARD_MODULE"), RTLD_NOW | RTLD_LOCAL);
		if (!lib) return 5;
		*(void **)&get = dlsym(lib, "C_GetFunctionList");
		if (!get || get(&real)) return 5;
		ours = *real;
		ours.f[GetFunctionList] = (void *)C_GetFunctionList;
		ours.f[GetSlotList] = (void *)get_slot_list;
		ours.f[GetTokenInfo] = (void *)get_token_info;
		ours.f[InitPIN] = (void *)init_pin;
		ours.f[SetPIN] = (void *)set_pin;
		ours.f[OpenSession] = (void *)open_session;
		ours.f[Login] = (void *)login;
		ours.f[FindObjectsInit] = (void *)find_objects_init;
		ours.f[SignInit] = (void *)sign_init;
		ours.f[Sign] = (void *)sign;
	}
	*out = &ours;
	return 0;
}
