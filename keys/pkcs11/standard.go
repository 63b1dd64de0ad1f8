package pkcs11

import (
	"errors"
	"fmt"
)

// This file is what is used of the PKCS#11 standard (version 2.40, and 3.0 for
// Edwards curves): as much of a library as one screen shows, and the numbers.

// A module is a PKCS#11 library that has been initialized.
type module interface {
	// slots lists those with a token, blank ones included.
	slots() ([]uint, error)
	info(slot uint) (tokenInfo, error)
	mechanisms(slot uint) ([]uint, error)
	initToken(slot uint, soPIN, label string) error
	open(slot uint) (session, error)
	close() error
}

// A session is a connection to one token. It does one thing at a time.
type session interface {
	login(user uint, pin []byte) error
	logout() error
	initPIN(pin []byte) error
	setPIN(old, new []byte) error

	find(template []attribute) ([]handle, error)
	// get returns nil for what the token does not tell of the object.
	get(h handle, attribute uint) ([]byte, error)
	create(template []attribute) (handle, error)
	set(h handle, values []attribute) error
	destroy(h handle) error
	generate(m mechanism, template []attribute) (handle, error)
	generatePair(m mechanism, public, private []attribute) (pub, priv handle, err error)

	// sign calls again, if it is not nil, between the start of the operation
	// and its end: keys that want the PIN for each signature get it there.
	sign(m mechanism, key handle, message []byte, again func() error) ([]byte, error)
	// encrypt returns the initialization vector too: some tokens choose it
	// themselves.
	encrypt(m mechanism, key handle, plain []byte) (iv, sealed []byte, err error)
	decrypt(m mechanism, key handle, sealed []byte) ([]byte, error)
	close() error
}

type handle uint

type tokenInfo struct {
	label, manufacturer, model, serial string
	flags                              uint
}

// An attribute's value is a bool, a uint, a string or a []byte.
type attribute struct {
	kind  uint
	value any
}

type mechanism struct {
	kind uint
	iv   []byte // of AES
	pss  bool   // SHA-256 with a salt of 32 bytes
}

const (
	flagLoginRequired   = 0x4
	flagPINInitialized  = 0x8
	flagKeypad          = 0x100
	flagInitialized     = 0x400
	flagPINCountLow     = 0x10000
	flagPINFinalTry     = 0x20000
	flagPINLocked       = 0x40000
	flagPINToBeChanged  = 0x80000
	userSO, user        = 0, 1
	userContextSpecific = 2

	classCertificate, classPublic, classPrivate, classSecret = 1, 2, 3, 4

	keyRSA, keyEC, keyAES, keyEdwards = 0, 3, 0x1f, 0x40

	attrClass              = 0x0
	attrToken              = 0x1
	attrPrivate            = 0x2
	attrLabel              = 0x3
	attrValue              = 0x11
	attrCertificateType    = 0x80
	attrIssuer             = 0x81
	attrSerialNumber       = 0x82
	attrKeyType            = 0x100
	attrSubject            = 0x101
	attrID                 = 0x102
	attrSensitive          = 0x103
	attrEncrypt            = 0x104
	attrDecrypt            = 0x105
	attrSign               = 0x108
	attrVerify             = 0x10a
	attrModulus            = 0x120
	attrModulusBits        = 0x121
	attrPublicExponent     = 0x122
	attrPrivateExponent    = 0x123
	attrPrime1             = 0x124
	attrPrime2             = 0x125
	attrExponent1          = 0x126
	attrExponent2          = 0x127
	attrCoefficient        = 0x128
	attrPublicKeyInfo      = 0x129
	attrValueLen           = 0x161
	attrExtractable        = 0x162
	attrECParams           = 0x180
	attrECPoint            = 0x181
	attrAlwaysAuthenticate = 0x202

	mechRSAGenerate     = 0x0
	mechPSS             = 0xd
	mechECGenerate      = 0x1040
	mechECDSA           = 0x1041
	mechEdwardsGenerate = 0x1055
	mechEdDSA           = 0x1057
	mechAESGenerate     = 0x1080
	mechAESCBC          = 0x1082
	mechAESGCM          = 0x1087
)

// A code is what a library returns when it could not.
type code uint

const (
	codeSlotInvalid         code = 0x3
	codeGeneral             code = 0x5
	codeFailed              code = 0x6
	codeAttributeReadOnly   code = 0x10
	codeAttributeSensitive  code = 0x11
	codeAttributeType       code = 0x12
	codeAttributeValue      code = 0x13
	codeData                code = 0x20
	codeDataLength          code = 0x21
	codeDevice              code = 0x30
	codeDeviceMemory        code = 0x31
	codeDeviceRemoved       code = 0x32
	codeEncryptedData       code = 0x40
	codeEncryptedLength     code = 0x41
	codeFunctionCanceled    code = 0x50
	codeNotSupported        code = 0x54
	codeKeyHandle           code = 0x60
	codeKeyFunction         code = 0x68
	codeMechanism           code = 0x70
	codeObjectHandle        code = 0x82
	codePINIncorrect        code = 0xa0
	codePINInvalid          code = 0xa1
	codePINLength           code = 0xa2
	codePINExpired          code = 0xa3
	codePINLocked           code = 0xa4
	codeSessionClosed       code = 0xb0
	codeSessionCount        code = 0xb1
	codeSessionHandle       code = 0xb3
	codeSessionReadOnly     code = 0xb5
	codeTemplateIncomplete  code = 0xd0
	codeTemplateInconsisent code = 0xd1
	codeTokenNotPresent     code = 0xe0
	codeTokenNotRecognized  code = 0xe1
	codeWriteProtected      code = 0xe2
	codeAlreadyLoggedIn     code = 0x100
	codeNotLoggedIn         code = 0x101
	codeNotInitializedPIN   code = 0x102
	codeAnotherLoggedIn     code = 0x104
	codeCurveNotSupported   code = 0x140
	codeNotInitialized      code = 0x190
	codeAlreadyInitialized  code = 0x191
)

var codeNames = map[code]string{
	0x2: "CKR_HOST_MEMORY", codeGeneral: "CKR_GENERAL_ERROR", codeFailed: "CKR_FUNCTION_FAILED", 0x7: "CKR_ARGUMENTS_BAD",
	codeSlotInvalid: "CKR_SLOT_ID_INVALID", codeAttributeReadOnly: "CKR_ATTRIBUTE_READ_ONLY",
	codeAttributeSensitive: "CKR_ATTRIBUTE_SENSITIVE", codeAttributeType: "CKR_ATTRIBUTE_TYPE_INVALID",
	codeAttributeValue: "CKR_ATTRIBUTE_VALUE_INVALID", codeData: "CKR_DATA_INVALID", codeDataLength: "CKR_DATA_LEN_RANGE", codeDevice: "CKR_DEVICE_ERROR",
	codeDeviceMemory: "CKR_DEVICE_MEMORY", codeDeviceRemoved: "CKR_DEVICE_REMOVED", codeEncryptedData: "CKR_ENCRYPTED_DATA_INVALID", codeEncryptedLength: "CKR_ENCRYPTED_DATA_LEN_RANGE",
	codeFunctionCanceled: "CKR_FUNCTION_CANCELED", codeNotSupported: "CKR_FUNCTION_NOT_SUPPORTED",
	codeKeyHandle: "CKR_KEY_HANDLE_INVALID", 0x62: "CKR_KEY_SIZE_RANGE", 0x63: "CKR_KEY_TYPE_INCONSISTENT",
	codeKeyFunction: "CKR_KEY_FUNCTION_NOT_PERMITTED", codeMechanism: "CKR_MECHANISM_INVALID", 0x71: "CKR_MECHANISM_PARAM_INVALID",
	codeObjectHandle: "CKR_OBJECT_HANDLE_INVALID", codePINIncorrect: "CKR_PIN_INCORRECT", codePINInvalid: "CKR_PIN_INVALID",
	codePINLength: "CKR_PIN_LEN_RANGE", codePINExpired: "CKR_PIN_EXPIRED", codePINLocked: "CKR_PIN_LOCKED",
	codeSessionClosed: "CKR_SESSION_CLOSED", codeSessionCount: "CKR_SESSION_COUNT", codeSessionHandle: "CKR_SESSION_HANDLE_INVALID",
	codeSessionReadOnly: "CKR_SESSION_READ_ONLY", codeTemplateIncomplete: "CKR_TEMPLATE_INCOMPLETE",
	codeTemplateInconsisent: "CKR_TEMPLATE_INCONSISTENT", codeTokenNotPresent: "CKR_TOKEN_NOT_PRESENT",
	codeTokenNotRecognized: "CKR_TOKEN_NOT_RECOGNIZED", codeWriteProtected: "CKR_TOKEN_WRITE_PROTECTED",
	codeAlreadyLoggedIn: "CKR_USER_ALREADY_LOGGED_IN", codeNotLoggedIn: "CKR_USER_NOT_LOGGED_IN",
	codeNotInitializedPIN: "CKR_USER_PIN_NOT_INITIALIZED", codeAnotherLoggedIn: "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
	codeCurveNotSupported: "CKR_CURVE_NOT_SUPPORTED", codeNotInitialized: "CKR_CRYPTOKI_NOT_INITIALIZED",
	codeAlreadyInitialized: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
}

func (c code) Error() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("PKCS#11 error 0x%x", uint(c))
}

// is reports whether err is one of codes.
func is(err error, codes ...code) bool {
	var got code
	if !errors.As(err, &got) {
		return false
	}
	for _, c := range codes {
		if got == c {
			return true
		}
	}
	return false
}

// lost reports whether err means that the session is of no use any more.
func lost(err error) bool {
	return is(err, codeSlotInvalid, codeDevice, codeDeviceRemoved, codeSessionClosed, codeSessionHandle,
		codeTokenNotPresent, codeTokenNotRecognized, codeNotLoggedIn, codeNotInitialized,
		codeKeyHandle, codeObjectHandle)
}
