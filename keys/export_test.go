package keys

import "crypto"

// SetFault makes writing fail: see replaceFile.
func (d *Dir) SetFault(fault func(step string) error) { d.testOnlyFault = fault }

// MaxCost is the most that a passphrase may cost to try.
const MaxCost = max(maxIterations, maxScryptWork)

// Cost is what one passphrase costs to try.
func (b *Block) Cost() int {
	if b.sealed == nil {
		return 0
	}
	return b.sealed.cost
}

// Content decrypts without parsing.
func (b *Block) Content(passphrase []byte) ([]byte, error) {
	if b.sealed == nil {
		return b.block.Bytes, nil
	}
	return b.sealed.decrypt(passphrase)
}

// MarshalPKCS8 is what is encrypted when key is written.
func MarshalPKCS8(key crypto.Signer) ([]byte, error) { return marshalPKCS8(key) }
