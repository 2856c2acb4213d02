// Shows a word's definition while the pointer or the focus is on it; a tap shows it, a second one follows the link.
// Escape puts it away (WCAG 1.4.13). Without this script a word is a link to the glossary.
(() => {
    const words = [...document.querySelectorAll('.term')]
    let shown = null
    let tapped = null
    const hide = () => {
        if (shown) shown.lastElementChild.hidden = true
        shown = null
    }
    const show = word => {
        if (!word || word === shown) return
        hide()
        const box = word.lastElementChild
        box.hidden = false
        box.classList.remove('above')
        box.classList.toggle('above', box.getBoundingClientRect().bottom > innerHeight)
        shown = word
    }
    const wordOf = target => target instanceof Element ? target.closest('.term') : null
    words.forEach((word, number) => {
        const box = document.createElement('span')
        box.role = 'tooltip'
        box.id = `definition-${number + 1}`
        box.hidden = true
        box.textContent = word.dataset.definition
        word.firstElementChild.setAttribute('aria-describedby', box.id)
        word.append(box)
        word.addEventListener('pointerenter', event => event.pointerType === 'touch' || show(word))
        word.addEventListener('pointerleave', event => {
            if (event.pointerType !== 'touch' && shown === word && !word.contains(document.activeElement)) hide()
        })
        word.addEventListener('focusin', () => show(word))
        word.addEventListener('focusout', () => shown === word && hide())
        word.addEventListener('click', event => {
            if (tapped === word) event.preventDefault()
        })
    })
    document.addEventListener('pointerdown', event => {
        const word = wordOf(event.target)
        tapped = event.pointerType === 'touch' && word !== shown ? word : null
        if (word) show(tapped)
        else hide()
    })
    document.addEventListener('keydown', event => event.key === 'Escape' && hide())
})()
